#!lua
-- From how many available units on a SKU runs low.
-- KEYS: 1 q:<sku>  2 ledger
-- ARGV: 1 sku  2 threshold ('' = none)
-- Reply: {ok|same}
local had = redis.call('HGET', KEYS[1], 'low') or ''
if had == ARGV[2] then return { 'same' } end
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], 'low')
else
  redis.call('HSET', KEYS[1], 'low', ARGV[2])
end
redis.call('XADD', KEYS[2], '*', 'op', 'threshold', 'name', ARGV[1], 'low', ARGV[2])
return { 'ok' }

#!lua
-- Writes the plan of one SKU's prices and what of it is in force, as the caller computed them from
-- the version it read; a plan that begins and ends nothing is not kept beside what is in force.
-- KEYS: 1 price:<sku>  2 outbox  3 bounds  4 ledger  5 plans:<sku>
-- ARGV: 1 sku  2 version that the caller read (0 = none)  3 event id  4 traceparent
--       5 plan ('' = nothing but what is in force)  6 prices in force
--       7 end of that in ms ('' = none is planned)  8 1 if the plan is an edited one
--       9 how many plans that were replaced are kept
-- Reply: {ok} | {moved} | {same: another has turned this boundary already}
local ver = redis.call('HGET', KEYS[1], 'ver') or '0'
if ver ~= ARGV[2] then return { 'moved' } end
if ARGV[8] ~= '1' and redis.call('HGET', KEYS[1], 'prices') == ARGV[6]
    and (redis.call('HGET', KEYS[1], 'until') or '') == ARGV[7] then
  return { 'same' }
end
-- From here on only writes.
local s = { ledger = KEYS[4], outbox = KEYS[2], order = '', cause = '', traceparent = ARGV[4] }
if ARGV[8] == '1' then
  -- What was planned until now, and since when: what held in the past follows from it.
  local was = redis.call('HMGET', KEYS[1], 'since', 'plan', 'prices')
  if was[1] then
    redis.call('RPUSH', KEYS[5], was[1] .. '|' .. (was[2] or was[3]))
    redis.call('LTRIM', KEYS[5], -ARGV[9], -1)
  else
    redis.call('HSET', KEYS[1], 'first', text(now))
  end
  redis.call('HSET', KEYS[1], 'since', text(now))
end
redis.call('HSET', KEYS[1], 'prices', ARGV[6], 'ver', text(ver + 1))
for field, value in pairs({ plan = ARGV[5], ['until'] = ARGV[7] }) do
  if value == '' then
    redis.call('HDEL', KEYS[1], field)
  else
    redis.call('HSET', KEYS[1], field, value)
  end
end
if ARGV[7] == '' then
  redis.call('ZREM', KEYS[3], ARGV[1])
else
  redis.call('ZADD', KEYS[3], ARGV[7], ARGV[1])
end
note(s, 'price', ARGV[1], KEYS[1])
tell(s, 'price.changed.v1', ARGV[3], ver + 1, 'sku', ARGV[1], 'prices', ARGV[6], 'until', ARGV[7])
return { 'ok' }

#!lua
-- Put a coupon's code beside a cart, or take it away, together with the cart's version.
-- KEYS: 1 cart  2 its coupon   ARGV: 1 code or ''  2 expected version or ''  3 ttl s
local version = redis.call('HGET', KEYS[1], 'v')
if not version then return {redis.call('HEXISTS', KEYS[1], 'm') == 1 and 'frozen' or 'missing'} end
if ARGV[2] ~= '' and ARGV[2] ~= version then return {'stale'} end
local before = redis.call('GET', KEYS[2]) or ''
-- from here on only writes
if ARGV[1] ~= before then
  if ARGV[1] == '' then redis.call('DEL', KEYS[2]) else redis.call('SET', KEYS[2], ARGV[1]) end
  redis.call('HINCRBY', KEYS[1], 'v', 1)
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return {'ok'}

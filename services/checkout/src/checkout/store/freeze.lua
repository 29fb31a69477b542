#!lua
-- The first step of a merge: freeze a guest's cart, so that what is taken out of it is what was in it.
-- A frozen cart has no version: every other script leaves it alone until the merge has ended.
-- KEYS: 1 the guest's cart
-- ARGV: 1 id of the merge, or '' to look only  2 the customer's cart id  3 ttl s
-- Gives: the merge that froze it, by now or before, its customer's cart, then all fields; or nothing
local frozen = redis.call('HGET', KEYS[1], 'm')
if not frozen then
  local version = redis.call('HGET', KEYS[1], 'v')
  if not version or ARGV[1] == '' then return {} end
  -- the version and the order last taken out come back with the lines that find no room
  local settled = redis.call('HGET', KEYS[1], 's')
  frozen = string.format('%s %s %s %s', ARGV[1], ARGV[2], version, settled)
  redis.call('HSET', KEYS[1], 'm', frozen)
  redis.call('HDEL', KEYS[1], 'v', 's')
  redis.call('EXPIRE', KEYS[1], ARGV[3])
end
local merge, customer = string.match(frozen, '^(%S+) (%S+)')
return {merge, customer, unpack(redis.call('HGETALL', KEYS[1]))}

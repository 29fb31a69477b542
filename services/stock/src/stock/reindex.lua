#!lua
-- Lets an index say of one hash what the hash says; the hash decides.
-- KEYS: 1 index (a zset)  2 hash
-- ARGV: 1 member  2 field with its score  3 state in which it stands in the index ('' = any)
local field, state = unpack(redis.call('HMGET', KEYS[2], ARGV[2], 'state'))
if field and (ARGV[3] == '' or state == ARGV[3]) then
  redis.call('ZADD', KEYS[1], field, ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return { 'ok' }

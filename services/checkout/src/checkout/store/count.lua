#!lua
-- Count something for a time that begins with the first.
-- KEYS: 1 the count   ARGV: 1 how long it is kept, s
-- Gives: how often it was, and the seconds until the count begins anew
local times = redis.call('INCR', KEYS[1])
redis.call('EXPIRE', KEYS[1], ARGV[1], 'NX')
return {times, redis.call('TTL', KEYS[1])}

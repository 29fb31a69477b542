#!lua
-- Raises the fence of a hold, and says what the hold is: what was decided before counts no more on
-- parts as they were.
-- KEYS: 1 fence:<order>  2 r:<order>
-- ARGV: 1 how long the fence stands in ms
-- Reply: the fields of the hold, {} where there is none
redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.call('HGETALL', KEYS[2])

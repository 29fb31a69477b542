#!lua
-- Let a cart begin; one that is there stays as it is, for as long as a new one.
-- KEYS: 1 cart   ARGV: 1 ttl s
redis.call('HSETNX', KEYS[1], 'v', 1)
redis.call('HSETNX', KEYS[1], 's', '')
redis.call('EXPIRE', KEYS[1], ARGV[1])

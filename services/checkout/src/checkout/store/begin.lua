#!lua
-- Let a cart begin; one that is there stays as it is, for as long as a new one.
-- KEYS: 1 cart  2 its coupon   ARGV: 1 ttl s
redis.call('HSETNX', KEYS[1], 'v', 1)
redis.call('HSETNX', KEYS[1], 's', '')
redis.call('EXPIRE', KEYS[1], ARGV[1])
return {'ok', redis.call('GET', KEYS[2]) or '', unpack(redis.call('HGETALL', KEYS[1]))}

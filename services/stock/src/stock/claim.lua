#!lua
-- An Idempotency-Key serves the SKU that it came with first.
-- KEYS: 1 in:of:<key>
-- ARGV: 1 sku  2 for how long in ms
-- Reply: {the SKU that it serves}
redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
return { redis.call('GET', KEYS[1]) }

#!lua
-- A cart and its coupon in one answer; nothing where there is no cart.
-- KEYS: 1 cart  2 its coupon
if redis.call('HEXISTS', KEYS[1], 'v') == 0 then return {} end
return {redis.call('GET', KEYS[2]) or '', unpack(redis.call('HGETALL', KEYS[1]))}

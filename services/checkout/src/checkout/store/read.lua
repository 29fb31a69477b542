#!lua
-- A cart and its coupon in one answer.
-- KEYS: 1 cart  2 its coupon
if redis.call('HEXISTS', KEYS[1], 'v') == 0 then
  return {redis.call('HEXISTS', KEYS[1], 'm') == 1 and 'frozen' or 'missing'}
end
return {'ok', redis.call('GET', KEYS[2]) or '', unpack(redis.call('HGETALL', KEYS[1]))}

#!lua
-- Take what a confirmed order sold out of its cart, once; lines added meanwhile stay.
-- KEYS: 1 cart   ARGV: 1 order id  2 1 if the cart's id comes back  3.. sku, qty, sku, qty ..
-- Gives: ok, or moved and the cart that its lines have gone into
local settled = redis.call('HGET', KEYS[1], 's')
if not settled then
  if redis.call('HEXISTS', KEYS[1], 'm') == 1 then return {'frozen'} end
  local to = redis.call('HGET', KEYS[1], 'to')
  return to and {'moved', to} or {'missing'}
end
if settled == ARGV[1] then return {'ok'} end
for i = 3, #ARGV, 2 do
  local line = '=' .. ARGV[i]
  local there = redis.call('HGET', KEYS[1], line) or '0 '
  local left = tonumber(string.match(there, '^%d+')) - tonumber(ARGV[i + 1])
  if left > 0 then
    redis.call('HSET', KEYS[1], line, left .. string.match(there, ' .*$'))
  else
    redis.call('HDEL', KEYS[1], line)
  end
end
if redis.call('HLEN', KEYS[1]) == 2 and ARGV[2] ~= '1' then
  redis.call('DEL', KEYS[1])
else
  redis.call('HSET', KEYS[1], 's', ARGV[1])
  redis.call('HINCRBY', KEYS[1], 'v', 1)
end
return {'ok'}

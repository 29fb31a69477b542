#!lua
-- Take what a confirmed order sold out of its cart, once; lines added meanwhile stay.
-- KEYS: 1 cart   ARGV: 1 order id  2 1 if the cart's id comes back  3.. sku, qty, sku, qty ..
-- Gives: the cart that its lines have gone into, or nothing
local settled = redis.call('HGET', KEYS[1], 's')
if not settled then return redis.call('HGET', KEYS[1], 'to') end
if settled == ARGV[1] then return false end
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
return false

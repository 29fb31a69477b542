#!lua
-- The second step of a merge: put a guest's lines into the customer's cart, once.
-- KEYS: 1 the customer's cart  2 what became of this merge
-- ARGV: 1 ttl s  2 ttl s of what became of it  3 lines at most  4 qty at most  5.. line, its value ..
-- Gives, and keeps: '<lines moved> <lines of which units were cut off>', then each line left
local told = redis.call('GET', KEYS[2])
if told then return told end
local most_lines, most_qty = tonumber(ARGV[3]), tonumber(ARGV[4])
local moved, cut, left = 0, 0, ''
-- the id of a customer's cart comes back after the cart has had its time
redis.call('HSETNX', KEYS[1], 'v', 1)
redis.call('HSETNX', KEYS[1], 's', '')
local taken = redis.call('HLEN', KEYS[1]) - 2
for i = 5, #ARGV, 2 do
  local line, guests = ARGV[i], ARGV[i + 1]
  local own = redis.call('HGET', KEYS[1], line)
  local before = tonumber(string.match(own or '0', '^%d+'))
  if before > 0 or taken < most_lines then
    if before == 0 then taken = taken + 1 end
    local after = before + tonumber(string.match(guests, '^%d+'))
    if after > most_qty then after, cut = most_qty, cut + 1 end
    -- the customer's own sight of the price is the older promise
    redis.call('HSET', KEYS[1], line, after .. string.match(own or guests, ' .*$'))
    moved = moved + 1
  else
    left = left .. ' ' .. line
  end
end
if moved > 0 then redis.call('HINCRBY', KEYS[1], 'v', 1) end
redis.call('EXPIRE', KEYS[1], ARGV[1])
told = string.format('%d %d%s', moved, cut, left)
redis.call('SET', KEYS[2], told, 'EX', ARGV[2])
return told

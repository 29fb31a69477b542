#!lua
-- Put a guest's cart into a customer's, both at once; what finds no room stays where it is.
-- KEYS: 1 the guest's cart  2 the customer's
-- ARGV: 1 the customer's cart id  2 ttl s  3 lines at most  4 qty at most
-- Gives: lines moved, lines left, lines of which units were cut off
local version = redis.call('HGET', KEYS[1], 'v')
if not version then return {0, 0, 0} end
local lines = {}
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(field, 1, 1) == '=' then lines[#lines + 1] = field end
end
table.sort(lines)
local most_lines, most_qty = tonumber(ARGV[3]), tonumber(ARGV[4])
local moved, cut = 0, 0
-- the id of a customer's cart comes back after the cart has had its time
redis.call('HSETNX', KEYS[2], 'v', 1)
redis.call('HSETNX', KEYS[2], 's', '')
local taken = redis.call('HLEN', KEYS[2]) - 2
for _, line in ipairs(lines) do
  local own = redis.call('HGET', KEYS[2], line)
  local guests = redis.call('HGET', KEYS[1], line)
  local before = tonumber(string.match(own or '0', '^%d+'))
  if before > 0 or taken < most_lines then
    if before == 0 then taken = taken + 1 end
    local after = before + tonumber(string.match(guests, '^%d+'))
    if after > most_qty then after, cut = most_qty, cut + 1 end
    -- the customer's own sight of the price is the older promise
    redis.call('HSET', KEYS[2], line, after .. string.match(own or guests, ' .*$'))
    redis.call('HDEL', KEYS[1], line)
    moved = moved + 1
  end
end
if moved > 0 then redis.call('HINCRBY', KEYS[2], 'v', 1) end
redis.call('EXPIRE', KEYS[2], ARGV[2])
if moved == #lines then
  -- what an order of the guest's still sells is now to be taken out of the customer's cart
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'to', ARGV[1])
  redis.call('EXPIRE', KEYS[1], ARGV[2])
elseif moved > 0 then
  redis.call('HINCRBY', KEYS[1], 'v', 1)
end
return {moved, #lines - moved, cut}

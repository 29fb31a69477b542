#!lua
-- The last step of a merge: a guest's cart is the lines that found no room, or says where all went.
-- KEYS: 1 the guest's cart
-- ARGV: 1 id of the merge  2 the customer's cart id  3 ttl s  4.. each line left
local frozen = redis.call('HGET', KEYS[1], 'm') or ''
local merge, _, version, settled = string.match(frozen, '^(%S+) (%S+) (%S+) (.*)$')
if merge ~= ARGV[1] then return 0 end
local moved = 0
local left = {}
for i = 4, #ARGV do left[ARGV[i]] = true end
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if not left[field] then
    redis.call('HDEL', KEYS[1], field)
    if field ~= 'm' then moved = moved + 1 end
  end
end
if #ARGV == 3 then
  -- what an order of the guest's still sells is now to be taken out of the customer's cart
  redis.call('HSET', KEYS[1], 'to', ARGV[2])
else
  redis.call('HSET', KEYS[1], 'v', tonumber(version) + (moved > 0 and 1 or 0), 's', settled)
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1

#!lua
-- Change one line of a cart together with its version, or drop the cart, or do nothing.
-- KEYS: 1 cart (hash: v = version, s = the order last taken out, =<sku> = '<quantity> <prices seen>')
--       2 its coupon
-- ARGV: 1 put|add|remove|drop  2 expected version or ''  3 sku  4 qty  5 ttl s  6 lines  7 qty at most
--       8 1 if the cart's id comes back: then its version and its last order outlive its lines
--       9 the prices that the shopper sees now
local version = redis.call('HGET', KEYS[1], 'v')
if not version then return {redis.call('HEXISTS', KEYS[1], 'm') == 1 and 'frozen' or 'missing'} end
if ARGV[2] ~= '' and ARGV[2] ~= version then return {'stale'} end
if ARGV[1] == 'drop' then
  redis.call('DEL', KEYS[2])
  if ARGV[8] ~= '1' then
    redis.call('DEL', KEYS[1])
    return {'ok'}
  end
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.sub(field, 1, 1) == '=' then redis.call('HDEL', KEYS[1], field) end
  end
  redis.call('HINCRBY', KEYS[1], 'v', 1)
  return {'ok'}
end
local line = '=' .. ARGV[3]
local before = tonumber(string.match(redis.call('HGET', KEYS[1], line) or '0', '^%d+'))
local after = 0
if ARGV[1] == 'put' then after = tonumber(ARGV[4]) end
if ARGV[1] == 'add' then after = before + tonumber(ARGV[4]) end
if after > tonumber(ARGV[7]) then return {'full'} end
if before == 0 and after > 0 and redis.call('HLEN', KEYS[1]) - 2 >= tonumber(ARGV[6]) then
  return {'full'}
end
-- from here on only writes
if after == 0 then
  redis.call('HDEL', KEYS[1], line)
else
  redis.call('HSET', KEYS[1], line, string.format('%d %s', after, ARGV[9]))
end
if after ~= before then redis.call('HINCRBY', KEYS[1], 'v', 1) end
redis.call('EXPIRE', KEYS[1], ARGV[5])
return {'ok', redis.call('GET', KEYS[2]) or '', unpack(redis.call('HGETALL', KEYS[1]))}

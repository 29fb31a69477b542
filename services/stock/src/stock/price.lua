#!lua
-- Writes the prices of one SKU; prices that stand already write nothing.
-- KEYS: 1 price:<sku>  2 outbox
-- ARGV: 1 sku  2 replace (these are all) | merge (others stay)  3 event id  4 traceparent
--       then prices as currency:group:min_qty:amount:list
-- Reply: {ok|same, version, prices joined by ;, 1 if the SKU had none}
local had = redis.call('HMGET', KEYS[1], 'prices', 'ver')
local new = {}
local function key(price) return string.match(price, '^[^:]*:[^:]*:[^:]*') end
if ARGV[2] == 'merge' and had[1] then
  for price in string.gmatch(had[1], '[^;]+') do new[key(price)] = price end
end
for i = 5, #ARGV do new[key(ARGV[i])] = ARGV[i] end
local prices = {}
for _, price in pairs(new) do prices[#prices + 1] = price end
table.sort(prices)
local joined = table.concat(prices, ';')
if joined == had[1] then return { 'same', tonumber(had[2]), joined, 0 } end
-- From here on only writes.
local version = tonumber(had[2] or 0) + 1
redis.call('HSET', KEYS[1], 'prices', joined, 'ver', text(version), 'from_ms', text(now))
tell({ outbox = KEYS[2], order = '', cause = '', traceparent = ARGV[4] },
     'price.changed.v1', ARGV[3], version, 'sku', ARGV[1], 'prices', joined)
return { 'ok', version, joined, had[2] and 0 or 1 }

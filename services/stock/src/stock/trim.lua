#!lua
-- Forgets the ledger's oldest entries, which the journal has, and their places in the indices.
-- KEYS: 1 ledger  then moves:<sku> ..
-- ARGV: 1 the first entry there is  2 the first that stays
--       then how many of the oldest movements of each SKU go
-- Reply: how many entries went; 0 if others have forgotten them already
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
if not first[1] or first[1][1] ~= ARGV[1] then return 0 end
for i = 2, #KEYS do redis.call('LTRIM', KEYS[i], ARGV[i + 1], -1) end
return redis.call('XTRIM', KEYS[1], 'MINID', ARGV[2])

#!lua
-- Puts the counters of one SKU right, as a movement of nothing that says so.
-- KEYS: 1 q:<sku>  2 moves:<sku>  3 ledger  4 outbox
-- ARGV: 1 sku  2 event id  3 reason  then recv, avail, resv, sold, ver as seen, then as they
--       should be
-- Reply: {ok} | {moved: the counters are others by now}
local has = read(KEYS[1])
local names = { 'recv', 'avail', 'resv', 'sold', 'ver' }
local right = { known = true, low = has.low }
for i, name in ipairs(names) do
  if has[name] ~= tonumber(ARGV[3 + i]) then return { 'moved' } end
  right[name] = tonumber(ARGV[8 + i])
end
-- nobody has heard of a version above both
right.ver = math.max(right.ver, has.ver)
move({ ledger = KEYS[3], outbox = KEYS[4], order = '', cause = '', traceparent = '',
       reason = ARGV[3] },
     { q = KEYS[1], moves = KEYS[2], sku = ARGV[1], id = ARGV[2], has = right },
     'repair', 'adjusted', 0, 0, 0, 0)
return { 'ok' }

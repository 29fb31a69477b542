#!lua
-- Puts sold units of an order back for sale, as a refund says: of each line at most what was sold.
-- KEYS: 1 r:<name>  2 exp  3 ledger  4 outbox  5 in:<event>  6 fence:<name>
--       then q:<sku>, moves:<sku> per line that is here
-- ARGV: 1 name: the order, or part: in front of it  2 causing event  3 keep ms  4 traceparent
--       5 n  then sku, qty, 0, id of its stock.changed, where it is per line; each SKU once
-- Reply: {restocked} | {dup} | {early} (nothing is sold yet) | {conflict, why}
if redis.call('EXISTS', KEYS[5]) == 1 then return { 'dup' } end
local state = redis.call('HGET', KEYS[1], 'state') or 'none'
if state == 'held' then return { 'early' } end
-- The record of a sale is kept for 30 days only: behind it, a refund is taken at its word.
if state ~= 'committed' and state ~= 'none' then return { 'conflict', state } end
local s = { ledger = KEYS[3], outbox = KEYS[4], order = string.gsub(ARGV[1], '^part:', ''), cause = ARGV[2],
            traceparent = ARGV[4], reason = '' }
local lines = read_lines(7, 6, tonumber(ARGV[5]))
local left, place = {}, {}
for i = 1, tonumber(redis.call('HGET', KEYS[1], 'n') or 0) do
  local sold = redis.call('HMGET', KEYS[1], 's' .. i, 'q' .. i, 'b' .. i)
  left[sold[1]], place[sold[1]] = sold[2] - (sold[3] or 0), i
end
for _, line in ipairs(lines) do
  if state == 'committed' and (left[line.sku] or 0) < line.qty then return { 'conflict', 'lines' } end
  if line.has and line.has.sold < line.qty then return { 'conflict', 'sold' } end
end
-- From here on only writes.
for _, line in ipairs(lines) do
  move(s, line, 'restock', 'returned', line.qty, 0, -line.qty, 0)
  if place[line.sku] then
    redis.call('HINCRBY', KEYS[1], 'b' .. place[line.sku], line.qty)
  end
end
if state == 'committed' then
  redis.call('HSET', KEYS[1], 'back', '1')
  note(s, 'hold', ARGV[1], KEYS[1])
end
redis.call('SET', KEYS[5], '1', 'PX', ARGV[3])
return { 'restocked' }

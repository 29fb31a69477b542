#!lua
-- Holds every line of an order, or none and says which were short.
-- KEYS: 1 r:<order>  2 exp  3 ledger  4 outbox  5 in:<event>  then q:<sku>, moves:<sku> per line
-- ARGV: 1 order  2 causing event  3 id of the reservation's event  4 hold ms  5 keep ms
--       6 traceparent  7 n  then sku, qty, id of its stock.changed per line; each SKU once
-- Reply: {held|rejected} | {dup} | {due, order ids}
if redis.call('EXISTS', KEYS[5]) == 1 then return { 'dup' } end
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('SET', KEYS[5], '1', 'PX', ARGV[5])
  return { 'dup' }
end
local s = { ledger = KEYS[3], outbox = KEYS[4], order = ARGV[1], cause = ARGV[2],
            traceparent = ARGV[6], reason = '' }
local n, lines, wanted, short = tonumber(ARGV[7]), {}, {}, {}
for i = 1, n do
  local line = { q = KEYS[4 + 2 * i], moves = KEYS[5 + 2 * i], sku = ARGV[5 + 3 * i],
                 qty = tonumber(ARGV[6 + 3 * i]), id = ARGV[7 + 3 * i] }
  line.has = read(line.q)
  lines[i], wanted[i] = line, line.sku .. ':' .. text(line.qty)
  if line.has.avail < line.qty then
    short[#short + 1] = wanted[i] .. ':' .. text(line.has.avail)
  end
end
if #short > 0 then
  local expired = due(KEYS[2])
  if expired then return expired end
  redis.call('HSET', KEYS[1], 'state', 'rejected', 'ver', 1, 'at', text(now))
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
  tell(s, 'reservation.rejected.v1', ARGV[3], 1, 'shortages', table.concat(short, ';'))
  redis.call('SET', KEYS[5], '1', 'PX', ARGV[5])
  return { 'rejected' }
end
-- From here on only writes.
local expires = text(now + tonumber(ARGV[4]))
redis.call('HSET', KEYS[1], 'state', 'held', 'exp', expires, 'ver', 1, 'at', text(now), 'n', n)
for i, line in ipairs(lines) do
  redis.call('HSET', KEYS[1], 's' .. i, line.sku, 'q' .. i, text(line.qty))
  move(s, line, 'reserve', 'held', -line.qty, line.qty, 0, 0)
end
redis.call('ZADD', KEYS[2], expires, ARGV[1])
tell(s, 'reservation.held.v1', ARGV[3], 1, 'lines', table.concat(wanted, ';'), 'expires', expires)
redis.call('SET', KEYS[5], '1', 'PX', ARGV[5])
return { 'held' }

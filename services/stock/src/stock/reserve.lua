#!lua
-- Holds every line of an order, or none and says which were short.
-- KEYS: 1 r:<order>  2 exp  3 ledger  4 outbox  5 in:<event>  6 r:<cart's hold> ('r:' = none)
--       7 fence:<order>  then q:<sku>, moves:<sku> per line that is here
-- ARGV: 1 order  2 causing event  3 id of the reservation's event  4 hold ms  5 keep ms
--       6 traceparent  7 name of the cart's hold that the order takes over ('' = none)  8 its version
--       9 fence that the caller saw ('' = any)
--       10 n  then sku, qty, what that hold gives up, id of its stock.changed, where it is per line;
--       each SKU once
-- Reply: {held|rejected} | {dup} | {moved} (the cart's hold is another, or a part may have been
--        given back) | {due, names}
if redis.call('EXISTS', KEYS[5]) == 1 then return { 'dup' } end
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('SET', KEYS[5], '1', 'PX', ARGV[5])
  return { 'dup' }
end
if ARGV[7] ~= '' then
  local cart = redis.call('HMGET', KEYS[6], 'state', 'ver')
  if cart[1] ~= 'held' or cart[2] ~= ARGV[8] then return { 'moved' } end
end
if fenced(KEYS[7], ARGV[9]) then return { 'moved' } end
local s = { ledger = KEYS[3], outbox = KEYS[4], order = ARGV[1], cause = ARGV[2],
            traceparent = ARGV[6], reason = '' }
local lines, wanted, short, unasked = read_lines(8, 11, tonumber(ARGV[10]))
if unasked then return { 'moved' } end
if #short > 0 then
  local expired = due(KEYS[2])
  if expired then return expired end
  redis.call('HSET', KEYS[1], 'state', 'rejected', 'ver', 1, 'at', text(now))
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
  note(s, 'hold', ARGV[1], KEYS[1])
  tell(s, 'reservation.rejected.v1', ARGV[3], 1, 'shortages', table.concat(short, ';'))
  redis.call('SET', KEYS[5], '1', 'PX', ARGV[5])
  return { 'rejected' }
end
-- From here on only writes.
local expires = keep(s, KEYS[1], KEYS[2], ARGV[1], 1, ARGV[4], lines)
if ARGV[7] ~= '' then
  redis.call('HSET', KEYS[6], 'state', 'taken', 'at', text(now), 'ver', ARGV[8] + 1)
  redis.call('PEXPIRE', KEYS[6], ARGV[5])
  redis.call('ZREM', KEYS[2], ARGV[7])
  note(s, 'hold', ARGV[7], KEYS[6])
end
tell(s, 'reservation.held.v1', ARGV[3], 1, 'lines', table.concat(wanted, ';'), 'expires', expires)
redis.call('SET', KEYS[5], '1', 'PX', ARGV[5])
return { 'held' }

#!lua
-- Changes the units on hand of one SKU and records it, or does nothing.
-- KEYS: 1 q:<sku>  2 moves:<sku>  3 ledger  4 outbox  5 exp  6 in:<command id>
-- ARGV: 1 sku  2 action  3 n  4 command id ('' = none, no marker)  5 event id  6 marker ms
--       7 traceparent  8 reason
-- Reply: {ok|same|replay, avail, resv, ver, threshold or '', 1 if the SKU is new}
--        | {short, avail} | {full} | {reused} | {due, order ids}
local asked = ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. ARGV[3]
if ARGV[4] ~= '' then
  local marker = redis.call('HMGET', KEYS[6], 'asked', 'avail', 'resv', 'ver', 'low')
  if marker[1] then
    if marker[1] ~= asked then return { 'reused' } end
    return { 'replay', tonumber(marker[2]), tonumber(marker[3]), tonumber(marker[4]), marker[5], 0 }
  end
end
local has = read(KEYS[1])
local delta = tonumber(ARGV[3])
if ARGV[2] == 'decrement' then delta = -delta end
if ARGV[2] == 'set' then delta = delta - has.avail - has.resv end
if has.avail + delta < 0 then return due(KEYS[5]) or { 'short', has.avail } end
if has.recv + delta > 9007199254740991 then return { 'full' } end
-- From here on only writes.
local changed = delta ~= 0 or not has.known
if changed then
  move({ ledger = KEYS[3], outbox = KEYS[4], order = '', cause = '',
         traceparent = ARGV[7], reason = ARGV[8] },
       { q = KEYS[1], moves = KEYS[2], sku = ARGV[1], id = ARGV[5], has = has },
       'adjust', 'adjusted', delta, 0, 0, delta)
end
local avail, ver = has.avail + delta, has.ver + (changed and 1 or 0)
if ARGV[4] ~= '' then
  -- A call that changed nothing is marked too: repeated later, it must still change nothing.
  redis.call('HSET', KEYS[6], 'asked', asked, 'avail', text(avail), 'resv', text(has.resv),
             'ver', text(ver), 'low', has.low or '')
  redis.call('PEXPIRE', KEYS[6], ARGV[6])
  note({ ledger = KEYS[3] }, 'key', ARGV[4], KEYS[6])
end
return { changed and 'ok' or 'same', avail, has.resv, ver, has.low or '', has.known and 0 or 1 }

#!lua
-- Changes the units on hand of one SKU and records it, or does nothing.
-- KEYS: 1 q:<sku>  2 moves:<sku>  3 ledger  4 outbox  5 exp  6 in:<command id>  7 rows:<job>
-- ARGV: 1 sku  2 action  3 n  4 command id ('' = none, no marker)  5 event id  6 marker ms
--       7 traceparent  8 reason  9 the row of the job that this is ('' = none)
-- Reply: {done|replay, avail, resv, ver, threshold or '', created|updated|unchanged}
--        | {short, avail} | {full} | {reused} | {due, order ids}
local changes = { 'unchanged', 'updated', 'created' }
local asked = ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. ARGV[3]
if ARGV[4] ~= '' then
  local marker = redis.call('HMGET', KEYS[6], 'asked', 'avail', 'resv', 'ver', 'low')
  if marker[1] then
    if marker[1] ~= asked then return { 'reused' } end
    return { 'replay', tonumber(marker[2]), tonumber(marker[3]), tonumber(marker[4]), marker[5],
             'unchanged' }
  end
end
local has = read(KEYS[1])
-- What became of each row of a job: two bits, 0 while it is to be done.
if ARGV[9] ~= '' then
  local became = redis.call('BITFIELD', KEYS[7], 'GET', 'u2', '#' .. ARGV[9])[1]
  if became ~= 0 then
    return { 'replay', has.avail, has.resv, has.ver, has.low or '', changes[became] }
  end
end
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
local became = not changed and 1 or has.known and 2 or 3
if ARGV[9] ~= '' then
  redis.call('BITFIELD', KEYS[7], 'SET', 'u2', '#' .. ARGV[9], became)
  redis.call('PEXPIRE', KEYS[7], ARGV[6])
end
return { 'done', avail, has.resv, ver, has.low or '', changes[became] }

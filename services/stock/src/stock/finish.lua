#!lua
-- Ends a hold: commit, release, return (of sold units) or expire. A cart's hold is only released,
-- taken by an order, or expired; a part follows what its home decided. Both are told as changes of
-- stock only.
-- KEYS: 1 r:<name>  2 exp  3 ledger  4 outbox  5 in:<event>  6 fence:<name>
--       then q:<sku>, moves:<sku> per line that is here
-- ARGV: 1 op  2 name: the order, cart:<reservation>, or part: in front of one of them
--       3 causing event, or the reservation ('' for expire)  4 id of the reservation's event
--       5 keep ms  6 traceparent  7 version that the caller saw ('' = any)
--       8 fence that the caller saw ('' = any)
--       9 n  then sku, qty, 0, id of its stock.changed, where it is per line; each SKU once
-- Reply: {committed|released|taken|returned|expired|commit_failed|tombstone} | {dup|noop|early}
--        | {again} | {conflict, why} | {due, names}
--        | {take} (it wants units that nobody has taken yet) | {moved} (another came between)
local op, name, n = ARGV[1], ARGV[2], tonumber(ARGV[9])
local part = string.sub(name, 1, 5) == 'part:'
local whose = part and string.sub(name, 6) or name
local cart = string.sub(whose, 1, 5) == 'cart:'
local told = not part and not cart
local marked = told and op ~= 'expire'
if marked and redis.call('EXISTS', KEYS[5]) == 1 then return { 'dup' } end
local hold = redis.call('HMGET', KEYS[1], 'state', 'exp', 'ver', 'n', 'said', 'short', 'back')
local state, version = hold[1] or 'none', tonumber(hold[3] or 0) + 1
if ARGV[7] ~= '' and ARGV[7] ~= (hold[3] or '0') then return { 'moved' } end
local s = { ledger = KEYS[3], outbox = KEYS[4], order = cart and '' or whose, cause = ARGV[3],
            traceparent = ARGV[6], reason = '' }
local lines, wanted, short, unasked = read_lines(7, 10, n)

-- The guard of the lines: what ends must be what was held.
if state == 'held' or (state == 'committed' and op ~= 'release') then
  local same = tonumber(hold[4]) == n
  for i = 1, n do
    local was = redis.call('HMGET', KEYS[1], 's' .. i, 'q' .. i)
    same = same and was[1] == lines[i].sku and tonumber(was[2]) == lines[i].qty
  end
  if not same then return { 'conflict', 'lines' } end
end

local function mark(reply)
  if marked then redis.call('SET', KEYS[5], '1', 'PX', ARGV[5]) end
  return reply
end
local function become(new, ...)
  redis.call('HSET', KEYS[1], 'state', new, 'at', text(now), ...)
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
  redis.call('ZREM', KEYS[2], name)
  note(s, 'hold', name, KEYS[1])
end
-- One transition with all it writes: units, hold, event, marker.
local function finish(new, kind, how, why, davail, dresv, dsold)
  for _, line in ipairs(lines) do
    move(s, line, how, why, davail * line.qty, dresv * line.qty, dsold * line.qty, 0)
  end
  become(new, 'ver', text(version), 'said', ARGV[4])
  if told then tell(s, kind, ARGV[4], version, 'lines', table.concat(wanted, ';')) end
  return mark({ new })
end
local function fail(missing)
  local shortages = table.concat(missing, ';')
  become('commit_failed', 'ver', text(version), 'said', ARGV[4], 'short', shortages)
  tell(s, 'reservation.commit_failed.v1', ARGV[4], version, 'shortages', shortages)
  return mark({ 'commit_failed' })
end
-- Who asks again has not heard the answer: it is the same event, by id and version.
local function repeat_answer(kind, field, value)
  tell(s, kind, hold[5], version - 1, field, value)
  return mark({ 'again' })
end

local over = state == 'held' and tonumber(hold[2]) <= now
if op == 'expire' or (cart and over and not part) then
  if state ~= 'held' then
    redis.call('ZREM', KEYS[2], name)
    return { 'noop' }
  end
  if part or not over then return { 'early' } end
  return finish('expired', 'reservation.expired.v1', 'expire', 'expired', 1, -1, 0)
end
if op == 'release' or op == 'return' or op == 'take' then
  if state == 'held' then
    local new = op == 'take' and 'taken' or 'released'
    return finish(new, 'reservation.released.v1', 'release', 'released', 1, -1, 0)
  end
  if state == 'none' then
    become('released')  -- the cancel overtook its order: a reserve that comes now finds it ended
    return mark({ 'tombstone' })
  end
  if state == 'committed' and hold[7] then return { 'conflict', 'restocked' } end
  if state == 'committed' and op == 'return' then
    return finish('returned', 'reservation.released.v1', 'return', 'returned', 1, 0, -1)
  end
  if state == 'committed' then return { 'conflict', 'committed' } end
  return mark({ 'noop' })
end
if op == 'commit' then
  if state == 'held' then
    return finish('committed', 'reservation.committed.v1', 'commit', 'committed', 0, -1, 1)
  end
  if state == 'committed' then
    return repeat_answer('reservation.committed.v1', 'lines', table.concat(wanted, ';'))
  end
  if state == 'commit_failed' then
    return repeat_answer('reservation.commit_failed.v1', 'shortages', hold[6])
  end
  if state == 'released' or state == 'rejected' then return fail({}) end
  if state ~= 'none' and state ~= 'expired' then return mark({ 'noop' }) end
  -- The hold is gone (expired, or lost with the tail of a failover): free units, or none for good.
  if unasked then return { 'take' } end
  if fenced(KEYS[6], ARGV[8]) then return { 'moved' } end
  if #short > 0 then return due(KEYS[2]) or fail(short) end
  redis.call('HSET', KEYS[1], 'n', n)
  for i, line in ipairs(lines) do
    redis.call('HSET', KEYS[1], 's' .. i, line.sku, 'q' .. i, text(line.qty))
  end
  return finish('committed', 'reservation.committed.v1', 'late_commit', 'committed', -1, 0, 1)
end
return redis.error_reply('unknown op')

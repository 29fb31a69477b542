#!lua
-- What every step shares: store.py puts this in front of each script. Only `move` and `tell` write.
-- Lua has no rollback: a script decides everything before its first write.
-- Numbers become text by `%.0f`: Lua's own conversion loses digits from 10^14 on.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function text(n) return string.format('%.0f', n) end

-- The counters of one SKU, and whether it is known at all.
local function read(q)
  local f = redis.call('HMGET', q, 'recv', 'avail', 'resv', 'sold', 'ver')
  return { known = f[5] ~= false, recv = tonumber(f[1] or 0), avail = tonumber(f[2] or 0),
           resv = tonumber(f[3] or 0), sold = tonumber(f[4] or 0), ver = tonumber(f[5] or 0) }
end

-- Holds whose time is over, as a reply: the caller expires them and runs the step again.
local function due(exp)
  local ids = redis.call('ZRANGEBYSCORE', exp, '-inf', text(now), 'LIMIT', 0, 100)
  if #ids == 0 then return nil end
  table.insert(ids, 1, 'due')
  return ids
end

-- Puts one entry into the outbox: what the event's envelope needs, then its own fields.
local function tell(s, kind, id, version, ...)
  redis.call('XADD', s.outbox, '*', 'type', kind, 'id', id, 'version', text(version),
             'time', text(now), 'order', s.order, 'cause', s.cause, 'traceparent', s.traceparent, ...)
end

-- Moves units of one SKU and records it: counters and version, ledger, the SKU's index, outbox.
-- s: ledger, outbox, order, cause, traceparent, reason; line: q, moves, sku, id, has (from `read`).
local function move(s, line, op, why, davail, dresv, dsold, drecv)
  local c = line.has
  local avail, resv, ver = c.avail + davail, c.resv + dresv, c.ver + 1
  redis.call('HSET', line.q, 'recv', text(c.recv + drecv), 'avail', text(avail),
             'resv', text(resv), 'sold', text(c.sold + dsold), 'ver', text(ver))
  local at = redis.call('XADD', s.ledger, '*', 'op', op, 'order', s.order, 'sku', line.sku,
                        'davail', text(davail), 'dresv', text(dresv), 'dsold', text(dsold),
                        'drecv', text(drecv), 'cause', s.cause, 'event', line.id,
                        'ver', text(ver), 'reason', s.reason)
  redis.call('RPUSH', line.moves, at)
  tell(s, 'stock.changed.v1', line.id, ver, 'sku', line.sku, 'on_hand', text(avail + resv),
       'reserved', text(resv), 'available', text(avail), 'why', why)
end

#!lua
-- What every step shares: store.py puts this in front of each script. Only `move`, `tell`, `keep`
-- and `note` write. Lua has no rollback: a script decides everything before its first write.
-- Numbers become text by `%.0f`: Lua's own conversion loses digits from 10^14 on.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function text(n) return string.format('%.0f', n) end

-- The counters of one SKU, and whether it is known at all.
local function read(q)
  local f = redis.call('HMGET', q, 'recv', 'avail', 'resv', 'sold', 'ver', 'low')
  return { known = f[5] ~= false, recv = tonumber(f[1] or 0), avail = tonumber(f[2] or 0),
           resv = tonumber(f[3] or 0), sold = tonumber(f[4] or 0), ver = tonumber(f[5] or 0),
           low = f[6] and tonumber(f[6]) }
end

-- Holds whose time is over, as a reply: the caller expires them and runs the step again.
local function due(exp)
  local ids = redis.call('ZRANGEBYSCORE', exp, '-inf', text(now), 'LIMIT', 0, 100)
  if #ids == 0 then return nil end
  table.insert(ids, 1, 'due')
  return ids
end

-- The lines of a step, from ARGV[first] on: sku, qty, what another hold gives up of it, event id,
-- and where its units are: '' here, with q and moves in KEYS from `k` on; else in another partition,
-- where they are taken ('ok'), too few (how many are free) or not asked for ('?').
-- Also the wanted ones as `sku:qty`, those that are short, and whether one was not asked for.
local function read_lines(k, first, n)
  local lines, wanted, short, unasked = {}, {}, {}, false
  for i = 1, n do
    local a = first + 5 * (i - 1)
    local line = { sku = ARGV[a], qty = tonumber(ARGV[a + 1]), given = tonumber(ARGV[a + 2]),
                   id = ARGV[a + 3] }
    local there = ARGV[a + 4]
    local free = tonumber(there)
    if there == '' then
      line.q, line.moves, k = KEYS[k], KEYS[k + 1], k + 2
      line.has = read(line.q)
      free = line.has.avail + line.given
    end
    lines[i] = line
    if line.qty > 0 then
      wanted[#wanted + 1] = line.sku .. ':' .. text(line.qty)
      if free and free < line.qty then
        short[#short + 1] = wanted[#wanted] .. ':' .. text(free)
      end
      if there == '?' then unasked = true end
    end
  end
  return lines, wanted, short, unasked
end

-- Whether somebody has looked after this hold's parts since the caller began to take them: one of
-- them may have been given back meanwhile. '' = it took none.
local function fenced(key, seen)
  return seen ~= '' and (redis.call('GET', key) or '0') ~= seen
end

-- Puts one entry into the outbox: what the event's envelope needs, then its own fields.
local function tell(s, kind, id, version, ...)
  redis.call('XADD', s.outbox, '*', 'type', kind, 'id', id, 'version', text(version),
             'time', text(now), 'order', s.order, 'cause', s.cause, 'traceparent', s.traceparent, ...)
end

-- Moves units of one SKU and records it: counters and version, ledger, the SKU's index, outbox.
-- The units of a line that lies in another partition are moved there.
-- s: ledger, outbox, order, cause, traceparent, reason; line: q, moves, sku, id, has (from `read`).
local function move(s, line, op, why, davail, dresv, dsold, drecv)
  local c = line.has
  if not c then return end
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
  if c.low and c.avail > c.low and avail <= c.low then
    tell(s, 'stock.ran_low.v1', line.id, ver, 'sku', line.sku, 'available', text(avail),
         'threshold', text(c.low))
  end
  if c.known and c.avail == 0 and avail > 0 then
    tell(s, 'stock.came_back.v1', line.id, ver, 'sku', line.sku, 'available', text(avail))
  end
end

-- Records in the ledger what a hash has become, whole, for the journal.
local function note(s, op, name, key)
  redis.call('XADD', s.ledger, '*', 'op', op, 'name', name, unpack(redis.call('HGETALL', key)))
end

-- Makes `r` a hold of the wanted lines, and moves what that takes.
local function keep(s, r, exp, name, version, hold_ms, lines)
  local expires, n = text(now + tonumber(hold_ms)), 0
  redis.call('DEL', r)
  for _, line in ipairs(lines) do
    if line.qty > 0 then
      n = n + 1
      redis.call('HSET', r, 's' .. n, line.sku, 'q' .. n, text(line.qty))
      -- its units are kept by a part
      if not line.q then redis.call('HSET', r, 'w' .. n, '1') end
    end
    local more = line.qty - line.given
    if more > 0 then move(s, line, 'reserve', 'held', -more, more, 0, 0) end
    if more < 0 then move(s, line, 'release', 'released', -more, more, 0, 0) end
  end
  redis.call('HSET', r, 'state', 'held', 'exp', expires, 'ver', version, 'at', text(now), 'n', n)
  redis.call('ZADD', exp, expires, name)
  note(s, 'hold', name, r)
  return expires
end

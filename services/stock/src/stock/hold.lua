#!lua
-- Holds every line of a cart, or of a part, in place of what it held, or changes nothing and says
-- what is short. Neither is an order: such holds are told as changes of stock only.
-- KEYS: 1 r:<name>  2 exp  3 ledger  4 outbox  5 fence:<name>
--       then q:<sku>, moves:<sku> per line that is here
-- ARGV: 1 name  2 id of the reservation, or the causing event  3 version that the caller saw
--       (0 = none)  4 hold ms ('' = only see whether it could)  5 traceparent  6 order ('' = none)
--       7 fence that the caller saw ('' = any)
--       8 n  then sku, qty, what it holds now, id of its stock.changed, where it is per line
-- Reply: {held, expires, version} | {free} | {short, sku:requested:available ..} | {moved}
--        | {due, names}
local ver = redis.call('HGET', KEYS[1], 'ver') or '0'
if ver ~= ARGV[3] then return { 'moved' } end
if fenced(KEYS[5], ARGV[7]) then return { 'moved' } end
local s = { ledger = KEYS[3], outbox = KEYS[4], order = ARGV[6], cause = ARGV[2],
            traceparent = ARGV[5], reason = '' }
local lines, _, short = read_lines(6, 9, tonumber(ARGV[8]))
if #short > 0 then return due(KEYS[2]) or { 'short', unpack(short) } end
if ARGV[4] == '' then return { 'free' } end
-- From here on only writes.
local expires = keep(s, KEYS[1], KEYS[2], ARGV[1], ver + 1, ARGV[4], lines)
return { 'held', expires, ver + 1 }

#!lua
-- Holds every line of a cart in place of what it held, or changes nothing and says what is short.
-- A cart is no order: its holds are told as changes of stock only.
-- KEYS: 1 r:<name>  2 exp  3 ledger  4 outbox  then q:<sku>, moves:<sku> per line
-- ARGV: 1 name  2 id of the reservation  3 version that the caller saw (0 = none)  4 hold ms
--       5 traceparent  6 n  then sku, qty, what it holds now, id of its stock.changed per line
-- Reply: {held, expires, version} | {short, sku:requested:available ..} | {moved} | {due, order ids}
local ver = redis.call('HGET', KEYS[1], 'ver') or '0'
if ver ~= ARGV[3] then return { 'moved' } end
local s = { ledger = KEYS[3], outbox = KEYS[4], order = '', cause = ARGV[2],
            traceparent = ARGV[5], reason = '' }
local lines, _, short = read_lines(5, 7, tonumber(ARGV[6]))
if #short > 0 then return due(KEYS[2]) or { 'short', unpack(short) } end
-- From here on only writes.
local expires = keep(s, KEYS[1], KEYS[2], ARGV[1], ver + 1, ARGV[4], lines)
return { 'held', expires, ver + 1 }

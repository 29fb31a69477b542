#!lua
-- Lets the hold of a cart last longer, while it lasts.
-- KEYS: 1 r:<name>  2 exp  3 ledger
-- ARGV: 1 name  2 hold ms from now on
-- Reply: {held, expires, version} | {state as it is, or none}
local hold = redis.call('HMGET', KEYS[1], 'state', 'exp', 'ver')
if hold[1] ~= 'held' then return { hold[1] or 'none' } end
if tonumber(hold[2]) <= now then return { 'expired' } end
-- From here on only writes.
local expires, version = text(now + tonumber(ARGV[2])), text(hold[3] + 1)
redis.call('HSET', KEYS[1], 'exp', expires, 'ver', version)
redis.call('ZADD', KEYS[2], expires, ARGV[1])
note({ ledger = KEYS[3] }, 'hold', ARGV[1], KEYS[1])
return { 'held', expires, tonumber(version) }

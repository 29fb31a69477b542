#!lua flags=no-writes
-- What the journal has not got, at one moment.
-- KEYS: 1 ledger  2 outbox
-- ARGV: 1 the last entry it has ('' = none)  2 the last entry of the outbox it has ('' = none)
--       3 how many of each at most
-- Reply: {1 if that last entry is still there, entries, id of the outbox's first entry or '',
--         entries of the outbox}
local behind, from = '-', '-'
if ARGV[1] ~= '' then
  if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return { 0 } end
  behind = '(' .. ARGV[1]
end
if ARGV[2] ~= '' then from = '(' .. ARGV[2] end
local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)
return {
  1,
  redis.call('XRANGE', KEYS[1], behind, '+', 'COUNT', ARGV[3]),
  first[1] and first[1][1] or '',
  redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', ARGV[3]),
}

#!lua flags=no-writes
-- Some hashes of a partition, and what its ledger tells behind an entry, at one moment.
-- KEYS: 1 ledger  2 index (a zset)  then hashes
-- ARGV: 1 entry ('' = the beginning)  2 how much of the ledger at most  then a member per hash
-- Reply: {1 if that entry is still there, now in ms, entries, hashes, scores or ''}
local behind = '-'
if ARGV[1] ~= '' then
  if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return { 0 } end
  behind = '(' .. ARGV[1]
end
local clock = redis.call('TIME')
local hashes, scores = {}, {}
for i = 3, #KEYS do
  hashes[#hashes + 1] = redis.call('HGETALL', KEYS[i])
  scores[#scores + 1] = redis.call('ZSCORE', KEYS[2], ARGV[i]) or ''
end
return {
  1,
  string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000)),
  redis.call('XRANGE', KEYS[1], behind, '+', 'COUNT', ARGV[2]),
  hashes,
  scores,
}

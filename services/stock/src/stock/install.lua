#!lua
-- Marks a partition as installed: with how many there are, what was said first stays. One that the
-- journal knows, and that Redis has nothing of, was lost.
-- KEYS: 1 partitions  2 ledger  3 what a rebuild writes while it fills
-- ARGV: 1 how many there are  2 how many a store has that is older than this mark
--       3 1 if the journal knows the partition
-- Reply: {the number that holds, '' = the partition is empty}
local has = redis.call('GET', KEYS[1])
if has then return { has } end
if redis.call('EXISTS', KEYS[3]) == 1 then return { '' } end
if redis.call('EXISTS', KEYS[2]) == 1 then
  has = ARGV[2]
elseif ARGV[3] == '1' then
  return { '' }
else
  has = ARGV[1]
end
redis.call('SET', KEYS[1], has)
return { has }

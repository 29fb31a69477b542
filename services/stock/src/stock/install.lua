#!lua
-- How many partitions there are: what was said first stays. A store that is older than the question
-- has one.
-- KEYS: 1 partitions  2 ledger
-- ARGV: 1 the number that the settings say
-- Reply: {the number that holds}
local has = redis.call('GET', KEYS[1])
if not has then
  has = redis.call('EXISTS', KEYS[2]) == 1 and '1' or ARGV[1]
  redis.call('SET', KEYS[1], has)
end
return { has }

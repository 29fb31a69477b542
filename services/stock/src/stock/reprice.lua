#!lua
-- Tells of a SKU's prices as they stand, under a version above one that others have heard.
-- KEYS: 1 price:<sku>  2 outbox  3 ledger
-- ARGV: 1 sku  2 event id  3 the version they have heard
-- Reply: {ok} | {same: the version is above it already}
local has = redis.call('HMGET', KEYS[1], 'ver', 'prices', 'until')
if tonumber(has[1] or 0) > tonumber(ARGV[3]) then return { 'same' } end
local s = { ledger = KEYS[3], outbox = KEYS[2], order = '', cause = '', traceparent = '' }
local ver = ARGV[3] + 1
redis.call('HSET', KEYS[1], 'ver', text(ver), 'prices', has[2] or '')
note(s, 'price', ARGV[1], KEYS[1])
tell(s, 'price.changed.v1', ARGV[2], ver, 'sku', ARGV[1], 'prices', has[2] or '',
     'until', has[3] or '')
return { 'ok' }

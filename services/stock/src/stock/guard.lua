
-- The last key says that this partition was installed. Without it Redis has lost all.
if redis.call('EXISTS', KEYS[#KEYS]) == 0 then return { 'empty' } end

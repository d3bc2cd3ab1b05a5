-- Delete a campaign whole. Drivers and workers that still know it are told GONE.
-- ARGV: uid
-- Reply: 1
-- Repeating it is safe: the repeat is told GONE.
if gone(ARGV[1]) then return GONE end
-- pcall: what is damaged is deleted all the same.
for _, worker in ipairs(redis.pcall('ZRANGE', WORKERS, 0, -1)) do redis.call('UNLINK', held_key(worker)) end
for _, width in ipairs(redis.pcall('ZRANGE', WIDE, 0, -1)) do redis.call('UNLINK', wide_key(width)) end
redis.call('UNLINK', unpack(KEYS))
return 1

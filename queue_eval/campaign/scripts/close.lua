-- Note when the driver of an unnamed campaign closed it, with every result gathered: it expires from then on (purge).
-- ARGV: uid, gathered (how many jobs the driver has gathered)
-- Reply: 1 when it expires by itself now
-- Nothing is noted of a campaign that was opened by its name since or is to be kept (no `expires`), that has open
-- jobs or more than this driver gathered, or whose jobs were retried: nobody has gathered their second outcome.
-- Repeating it is safe: it notes the same again, a moment later.
-- include columns gone is_gone now_ms
if is_gone(ARGV[1]) then return GONE end
local m = redis.call('HMGET', META, 'expires', 'last_id', 'revision', 'retried')
local finished = redis.call('HLEN', INDEX)
if m[1] ~= '1' or m[4] or not m[3] or tonumber(m[2]) ~= finished or tonumber(ARGV[2]) ~= finished then return 0 end
redis.call('HSET', META, 'closed', now_ms() .. ' ' .. m[2] .. ' ' .. m[3])
return 1

-- Pause (nothing more is leased) or resume a campaign.
-- ARGV: uid, paused (0|1)
-- Reply: 1 when that changed anything
-- include columns gone is_gone wake wake_for_waiting
if is_gone(ARGV[1]) then return GONE end
local before = redis.call('HGET', META, 'paused') or '0'
redis.call('HSET', META, 'paused', ARGV[2])
if ARGV[2] == '0' then
  wake()
  wake_for_waiting()
end
return before ~= ARGV[2] and 1 or 0

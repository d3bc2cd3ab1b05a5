-- include columns wake wide_pending

-- Put the markers back while jobs wait: whoever took one may not have used it.
local function wake_for_waiting()
  if redis.call('ZCARD', PENDING) + redis.call('ZCARD', SCHEDULED) > 0 then wake() end
  if wide_pending() > 0 then wake_wide() end
end

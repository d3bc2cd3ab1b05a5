-- include columns pending_apart wake

-- Put the markers back while jobs wait: whoever took one may not have used it.
local function wake_for_waiting()
  if redis.call('ZCARD', PENDING) + redis.call('ZCARD', SCHEDULED) > 0 then wake() end
  if pending_apart() > 0 then wake_wide() end
end

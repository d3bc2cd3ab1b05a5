-- include columns wake_for_waiting

-- Some job is held no more. Where a limit kept jobs waiting no marker was left: whoever is idle may ask now.
local function wake_if_limited()
  if (redis.call('HGET', META, 'most_running') or '') ~= '' then wake_for_waiting() end
end

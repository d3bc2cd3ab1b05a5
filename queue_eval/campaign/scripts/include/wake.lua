-- include columns

-- Put the marker that idle workers block on.
local function wake()
  redis.call('ZADD', WAKE, 0, 'work')
end

-- The same for wide jobs.
local function wake_wide()
  redis.call('ZADD', WAKE_WIDE, 0, 'work')
end

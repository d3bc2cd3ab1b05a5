-- include columns

-- Put the marker that idle workers block on.
local function wake()
  redis.call('ZADD', WAKE, 0, 'work')
end

-- The same for jobs of a shape.
local function wake_wide()
  redis.call('ZADD', WAKE_WIDE, 0, 'work')
end

-- include columns held_key

-- How many more jobs may be held under the campaign's limit; math.huge without one.
local function left_under_limit(most_running)
  local left = tonumber(most_running or '')
  if not left then return math.huge end
  for _, worker in ipairs(redis.call('ZRANGE', WORKERS, 0, -1)) do
    left = left - redis.call('HLEN', held_key(worker))
  end
  return left
end

-- include columns

-- How many of `prefetch` jobs a worker is given in advance: no more than its share of what waits beyond its room, so
-- that nobody is idle for it.
local function prefetch_share(prefetch, room)
  local workers = prefetch > 0 and redis.call('ZCARD', WORKERS) or 0
  if workers < 2 then return prefetch end
  local waiting = redis.call('ZCARD', PENDING) - room
  return math.max(0, math.min(prefetch, math.floor(waiting / workers)))
end

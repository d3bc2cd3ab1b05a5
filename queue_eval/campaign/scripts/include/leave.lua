-- include columns

-- End the attendance of a worker that holds nothing. Its last request stays known: a worker that was only cut off
-- may come back, and its old calls may still arrive.
local function leave(worker)
  redis.call('ZREM', WORKERS, worker)
  redis.call('ZREM', RESERVING, worker)
end

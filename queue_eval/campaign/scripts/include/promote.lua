-- include bulk columns jobs_among to_pending

-- Move what is due to pending, a page at a time. Returns the due time of the next scheduled job, or nil.
local function promote(now)
  if redis.call('ZCARD', SCHEDULED) == 0 then return nil end
  local due = redis.call('ZRANGEBYSCORE', SCHEDULED, '-inf', now, 'LIMIT', 0, 1000)
  if #due > 0 then
    bulk('ZREM', SCHEDULED, due)
    to_pending(jobs_among(due))
  end
  local first = redis.call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')
  return first[2] and tonumber(first[2])
end

-- Prevent RQ from treating a long execution as abandoned: a SimpleWorker gives no sign of life while it runs.
-- KEYS: rq:wip:<queue>    ARGV: RQ's prefix, RQ job id, until_s (Unix), ttl_s
local rq, id, ttl = ARGV[1], ARGV[2], tonumber(ARGV[4])
local function prolong(key)
  local left = redis.call('TTL', key)
  if left >= 0 and left < ttl then redis.call('EXPIRE', key, ttl) end
end
prolong(rq .. ':executions:' .. id)
for _, execution in ipairs(redis.call('ZRANGE', rq .. ':executions:' .. id, 0, -1)) do
  local member = id .. ':' .. execution
  redis.call('ZADD', KEYS[1], 'XX', 'GT', ARGV[3], member)
  redis.call('ZADD', rq .. ':executions:' .. id, 'XX', 'GT', ARGV[3], execution)
  prolong(rq .. ':execution:' .. member)
end
local worker = redis.call('HGET', rq .. ':job:' .. id, 'worker_name')
if worker then
  prolong(rq .. ':worker:' .. worker)
  prolong(rq .. ':worker:' .. worker .. ':executions')
end
return 1

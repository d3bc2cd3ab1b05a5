-- Claim attempts that have ended: remove our keys of them, and on request RQ's keys (when RQ's worker died,
-- or the attempt was stopped by force).
-- KEYS: flight, replies, rq:queue:<queue>, rq:wip:<queue>, rq:failed:<queue>
-- ARGV: RQ's prefix, prefix of RQ job ids, prefix of beats, prefix of insides, then per attempt: field, entries
--   ("id id ..."), 1 to remove RQ's keys of it (0: RQ's worker may be about to do so)
-- Reply, per attempt: 1 if RQ still has keys of it, else 0
-- Repeating it is safe.
local rq = ARGV[1]
local function sweep_rq(id)
  local executions = rq .. ':executions:' .. id
  for _, member in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
    if member == id or string.sub(member, 1, #id + 1) == id .. ':' then
      redis.call('ZREM', KEYS[4], member)
      local worker = redis.call('HGET', rq .. ':execution:' .. member, 'worker_name')
      if worker then redis.call('SREM', rq .. ':worker:' .. worker .. ':executions', member) end
      redis.call('DEL', rq .. ':execution:' .. member)
    end
  end
  redis.call('LREM', KEYS[3], 0, id)
  redis.call('LREM', KEYS[3] .. ':intermediate', 0, id)
  redis.call('ZREM', KEYS[5], id)
  local job = rq .. ':job:' .. id
  redis.call('DEL', job, job .. ':dependents', job .. ':dependencies', executions, rq .. ':results:' .. id)
  redis.call('DEL', KEYS[3] .. ':intermediate:first_seen:' .. id)
end
local reply = {}
for at = 5, #ARGV, 3 do
  local field = ARGV[at]
  redis.call('HDEL', KEYS[1], field)
  redis.call('DEL', ARGV[3] .. field, ARGV[4] .. field)
  for entry in string.gmatch(ARGV[at + 1], '%S+') do redis.call('XDEL', KEYS[2], entry) end
  local id = ARGV[2] .. field
  if ARGV[at + 2] == '1' then
    sweep_rq(id)
    reply[#reply + 1] = 0
  else
    reply[#reply + 1] = redis.call('EXISTS', rq .. ':job:' .. id, rq .. ':executions:' .. id) > 0 and 1 or 0
  end
end
return reply

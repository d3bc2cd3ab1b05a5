-- Note attempts as wanted, before they become RQ jobs; or join those that an earlier forwarder has forwarded.
-- KEYS: flight, rq:queue:<queue>
-- ARGV: keep_s, prefix of RQ job ids, prefix of beats, then per attempt: job, attempt, config, and the
--   attempts of this job that are the caller's own (",1,2,")
-- Reply, per attempt: attempt to wait for (0: make it an RQ job), whether that one has begun
-- Repeating it is safe: it joins attempts that have become RQ jobs meanwhile.
local flight, list = KEYS[1], KEYS[2]
local alive = function(field)
  local holder = redis.call('GET', ARGV[3] .. field)
  if holder then return holder ~= 'done', 1 end
  return redis.call('LPOS', list, ARGV[2] .. field), 0
end
local reply = {}
for at = 4, #ARGV, 4 do
  local job, attempt, config, own = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3]
  local joined, has_begun = 0, 0
  for earlier = attempt, math.max(1, attempt - 20), -1 do
    local field = job .. '-' .. earlier
    local is_own = earlier < attempt and string.find(own, ',' .. earlier .. ',', 1, true)
    if not is_own and redis.call('HEXISTS', flight, field) == 1 then
      local lives, begun = alive(field)
      if lives then
        joined, has_begun = earlier, begun
        break
      end
    end
  end
  if joined == 0 then redis.call('HSET', flight, job .. '-' .. attempt, config) end
  reply[#reply + 1] = joined
  reply[#reply + 1] = has_begun
end
redis.call('EXPIRE', flight, ARGV[1])
return reply

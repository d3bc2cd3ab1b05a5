-- Take back attempts that have not begun. One that RQ has popped already will not run: it is not wanted.
-- KEYS: flight, rq:queue:<queue>
-- ARGV: prefix of RQ's job keys, prefix of RQ job ids, prefix of beats, then fields
-- Reply, per field: 1 taken back, 0 it has begun
local reply = {}
for at = 4, #ARGV do
  local id = ARGV[2] .. ARGV[at]
  if redis.call('EXISTS', ARGV[3] .. ARGV[at]) == 1 then
    reply[#reply + 1] = 0
  else
    redis.call('HDEL', KEYS[1], ARGV[at])
    redis.call('LREM', KEYS[2], 0, id)
    redis.call('DEL', ARGV[1] .. id)
    reply[#reply + 1] = 1
  end
end
return reply

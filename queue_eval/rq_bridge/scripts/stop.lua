-- End attempts, begun or not. Executions that run read the stream of stops.
-- KEYS: flight, rq:queue:<queue>, stops
-- ARGV: keep_s, prefix of RQ's job keys, prefix of RQ job ids, prefix of beats, then fields
-- Reply, per field: 1 it runs and will read it, 0 it does not run
-- Repeating it is safe.
local reply = {}
for at = 5, #ARGV do
  local id = ARGV[3] .. ARGV[at]
  redis.call('HDEL', KEYS[1], ARGV[at])
  local holder = redis.call('GET', ARGV[4] .. ARGV[at])
  if holder and holder ~= 'done' then
    redis.call('XADD', KEYS[3], 'MAXLEN', '~', 1000, '*', 't', ARGV[at])
    reply[#reply + 1] = 1
  else
    if not holder then
      redis.call('LREM', KEYS[2], 0, id)
      redis.call('DEL', ARGV[2] .. id)
    end
    reply[#reply + 1] = 0
  end
end
redis.call('EXPIRE', KEYS[3], ARGV[1])
return reply

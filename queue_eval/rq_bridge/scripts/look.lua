-- The states of attempts that are not known to have begun, given in the order in which they were queued.
-- RQ's queue is first in, first out: if one attempt is still there, so are all that came later.
-- KEYS: rq:queue:<queue>    ARGV: prefix of RQ job ids, prefix of beats, then fields
-- Reply, per field: 'begun', 'queued' or 'missing'
local reply, found, missing = {}, false, 0
for at = 3, #ARGV do
  if redis.call('EXISTS', ARGV[2] .. ARGV[at]) == 1 then
    reply[#reply + 1] = 'begun'
  elseif found or missing >= 100 or redis.call('LPOS', KEYS[1], ARGV[1] .. ARGV[at]) then
    -- A call reports at most a hundred as missing: each of them costs a walk through the whole queue.
    found = found or missing < 100
    reply[#reply + 1] = 'queued'
  else
    missing = missing + 1
    reply[#reply + 1] = 'missing'
  end
end
return reply

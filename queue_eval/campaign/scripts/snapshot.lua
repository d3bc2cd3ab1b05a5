-- Count a campaign's jobs by place, all at one moment.
-- ARGV: perhaps anything: then the newest entry is told, too. That takes as long as its result is large.
-- Reply: { last_id, scheduled, pending, finished, failed, cancelled, paused, now_ms, newest entry, retried, total,
--          worker, expiry_ms, held, worker, expiry_ms, held, ... }; nothing when there is no such campaign
-- include columns held_key newest_entry now_ms pending_apart
local meta = redis.call('HMGET', META, 'last_id', 'paused', 'retried', 'total')
if not meta[1] then return {} end
local reply = { tonumber(meta[1]) or '', redis.call('ZCARD', SCHEDULED), redis.call('ZCARD', PENDING) + pending_apart(),
                redis.call('HLEN', INDEX), redis.call('SCARD', FAILED), redis.call('SCARD', CANCELLED),
                meta[2] == '1' and 1 or 0, now_ms(), ARGV[1] and newest_entry() or '0-0', meta[3] or '0', meta[4] or '0' }
local workers = redis.call('ZRANGE', WORKERS, 0, -1, 'WITHSCORES')
for i = 1, #workers, 2 do
  reply[#reply + 1] = workers[i]
  reply[#reply + 1] = workers[i + 1]
  reply[#reply + 1] = redis.call('HLEN', held_key(workers[i]))
end
return reply

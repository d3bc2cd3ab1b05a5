-- Look at a campaign for a worker that has nothing of it, and note that it rests when it is over: every job is
-- finished, nothing has happened for `after_ms`, and its driver, which is of a build that knows of rest, wakes it.
-- Not by uid: of a campaign that is looked at nothing else is known.
-- ARGV: after_ms ('' to look only)
-- Reply: { uid or '', revision, rests (0|1) }
-- Repeating it is safe: it notes the same again, or sees that the campaign goes on.
-- include columns newest_entry now_ms submitted_ms
local meta = redis.call('HMGET', META, 'uid', 'revision', 'last_id', 'wakes', 'opened_ms')
if not meta[1] then return { '', -1, 0 } end
local revision = tonumber(meta[2]) or -1
local is_over = tonumber(meta[3]) == redis.call('HLEN', INDEX) and meta[4] == meta[2]
if not is_over or ARGV[1] == '' then return { meta[1], revision, 0 } end
local latest = math.max(
  tonumber(meta[5]) or 0,
  tonumber(string.match(newest_entry(), '^%d+')) or 0,
  submitted_ms(redis.call('HGET', CONFIGS, meta[3]) or '') or 0)
if now_ms() - latest < tonumber(ARGV[1]) then return { meta[1], revision, 0 } end
redis.call('HSET', META, 'resting', 1)
return { meta[1], revision, 1 }

-- Run failed or cancelled jobs again: they are submitted anew, with no failure or loss. The attempt numbers
-- go on, so that no old token is ever valid again. Their former outcome stays in the log; the index forgets it.
-- ARGV: uid, then ids
-- Reply: { the ids that are pending again by this call, resting (0|1) as in enqueue }
-- Repeating it is safe: a job that is pending again is no longer failed or cancelled.
local uid = ARGV[1]
if gone(uid) then return GONE end
local now = now_ms()
local ids, marks = {}, {}
for i = 2, #ARGV do
  local was_failed = redis.call('SREM', FAILED, ARGV[i])
  if was_failed + redis.call('SREM', CANCELLED, ARGV[i]) > 0 then ids[#ids + 1] = ARGV[i] end
end
local configs, past = hmget(CONFIGS, ids), histories(ids)
local restamped = {}
for i, id in ipairs(ids) do
  restamped[#restamped + 1] = id
  restamped[#restamped + 1] = stamp_of(now) .. config_of(configs[i])
  if past[i] then
    local h = parse_history(past[i])
    marks[#marks + 1] = id
    marks[#marks + 1] = h.attempts .. ' 0 0 ' .. h.uncharged .. ' 0'
  end
end
bulk('HSET', CONFIGS, restamped)
bulk('HSET', ATTEMPTS, marks)
bulk('HDEL', INDEX, ids)
bulk('HDEL', OUTPUTS, ids)
if #ids > 0 then redis.call('HINCRBY', META, 'retried', #ids) end
to_pending(ids)
return { ids, is_resting() }

-- Give leases back, unrun or unfinished, without cost to the job: it is pending again.
-- ARGV: uid, worker, leaves (0|1), then per token: id, attempt, reason
--   leaves: the worker ends and attends the campaign no more, if it holds nothing else.
--   reason: why it is given back, which is counted and put on record; '' for what only waited on the worker.
-- Reply: how many were released.
-- Repeating it is safe: a released token is no longer held.
-- include bulk gone held_key history hmget is_gone leave log_failure parse_held to_pending wake_for_waiting
-- include wake_if_limited
local uid, worker, leaves = ARGV[1], ARGV[2], ARGV[3] == '1'
if is_gone(uid) then return GONE end
local held = held_key(worker)
local ids = {}
for at = 4, #ARGV, 3 do ids[#ids + 1] = ARGV[at] end
local tokens, past = hmget(held, ids), histories(ids)
local again, changed = {}, {}
for i, id in ipairs(ids) do
  local at = 4 + (i - 1) * 3
  local attempt = tonumber(ARGV[at + 1])
  if tokens[i] and parse_held(tokens[i]) == attempt then
    local h = parse_history(past[i])
    h.attempts = attempt
    h.uncharged = h.uncharged + 1
    if ARGV[at + 2] ~= '' then
      h.releases = h.releases + 1
      log_failure(id, attempt, 'released', worker, ARGV[at + 2])
    end
    again[#again + 1] = id
    note_history(changed, id, h)
  end
end
bulk('HDEL', held, again)
write_histories(changed)
to_pending(again)
if leaves and redis.call('HLEN', held) == 0 then
  leave(worker)
  -- It may have taken the marker and leave without having used it.
  wake_for_waiting()
end
if #again > 0 then wake_if_limited() end
return #again

-- Give leases back, unrun or unfinished, without cost to the job: it is pending again, or scheduled.
-- ARGV: uid, worker, leaves (0|1), then per token: id, attempt, reason, delayed (0|1)
--   leaves: the worker ends and attends the campaign no more, if it holds nothing else.
--   reason: why it is given back, which is counted and put on record; '' for what only waited on the worker.
--   delayed: the job waits as before a retry, by how often in a row it was given back without a new checkpoint.
-- Reply: how many were released.
-- Repeating it is safe: a released token is no longer held.
-- include begin_extras bulk columns extra_key facts_since gone held_key history hmget leave log_failure mend now_ms
-- include parse_held to_pending wake wake_for_waiting wake_if_limited write_history
local uid, worker, leaves = ARGV[1], ARGV[2], ARGV[3] == '1'
local meta = redis.call('HMGET', META, 'uid', 'extras', 'retry_first_ms', 'retry_factor', 'retry_max_ms')
if meta[1] ~= uid then return GONE end
local held = held_key(worker)
local FIRST_ARG, ARGS_EACH = 4, 4
local ids = {}
for at = FIRST_ARG, #ARGV, ARGS_EACH do ids[#ids + 1] = ARGV[at] end
local tokens, past = hmget(held, ids), histories(ids)
local released, again, changed = {}, {}, {}

-- How often in a row the job was given back, this time included.
local function count_give_back(id)
  begin_extras(meta[2])
  meta[2] = '1'
  mend('ZSCORE', extra_key('give_backs'), id)
  local times = math.floor(tonumber(redis.call('ZSCORE', extra_key('give_backs'), id) or 0)) + 1
  -- A damaged score counts as none.
  if not (times >= 1 and times < 1e9) then times = 1 end
  redis.call('ZADD', extra_key('give_backs'), times, id)
  return times
end

-- As settle.lua delays a retry.
local function delay_ms(times)
  local first_ms, factor, max_ms = tonumber(meta[3]) or 0, tonumber(meta[4]) or 1, tonumber(meta[5]) or 0
  return math.floor(math.min(max_ms, first_ms * factor ^ (times - 1)))
end

for i, id in ipairs(ids) do
  local at = FIRST_ARG + (i - 1) * ARGS_EACH
  local attempt = tonumber(ARGV[at + 1])
  local holds, request, started = parse_held(tokens[i] or '')
  if tokens[i] and holds == attempt then
    local h = parse_history(past[i])
    h.attempts = attempt
    h.uncharged = h.uncharged + 1
    local times = 1
    if ARGV[at + 2] ~= '' then
      times = count_give_back(id)
      h.releases = h.releases + 1
      log_failure(id, attempt, 'released', worker, ARGV[at + 2], '', facts_since(started, request, now_ms()))
    end
    released[#released + 1] = id
    if ARGV[at + 3] == '1' then
      redis.call('ZADD', SCHEDULED, now_ms() + delay_ms(times), id)
      wake()
    else
      again[#again + 1] = id
    end
    note_history(changed, id, h)
  end
end
bulk('HDEL', held, released)
write_histories(changed)
to_pending(again)
if leaves and redis.call('HLEN', held) == 0 then
  leave(worker)
  -- It may have taken the marker and leave without having used it.
  wake_for_waiting()
end
if #released > 0 then wake_if_limited() end
return #released

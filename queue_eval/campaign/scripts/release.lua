-- Give leases back, unrun or unfinished, without cost to the job: it is pending again, or scheduled.
-- ARGV: uid, worker, leaves (0|1), then per token: id, attempt, reason, delayed (0|1), lacks_time (0|1)
--   leaves: the worker ends and attends the campaign no more, if it holds nothing else.
--   reason: why it is given back, which is counted and put on record; '' for what only waited on the worker.
--   delayed: the job waits as before a retry, by how often in a row it was given back without a new checkpoint.
--   lacks_time: the attempt was ended because its worker has no more time.
-- Reply: { released, asking }: how many were; flat: id, seconds, of jobs that ask for time from now on, by themselves
-- Repeating it is safe: a released token is no longer held.
-- include begin_extras bulk columns extra_key extras facts_since gone held_key history hmget leave log_failure mend
-- include new_shape now_ms parse_held parse_shape shapes_of to_pending wake wake_for_waiting wake_if_limited
-- include write_history
local uid, worker, leaves = ARGV[1], ARGV[2], ARGV[3] == '1'
local meta = redis.call('HMGET', META, 'uid', 'extras', 'retry_first_ms', 'retry_factor', 'retry_max_ms',
  'time_limit_s')
if meta[1] ~= uid then return GONE end
local held = held_key(worker)
local FIRST_ARG, ARGS_EACH = 4, 5
local ids = {}
for at = FIRST_ARG, #ARGV, ARGS_EACH do ids[#ids + 1] = ARGV[at] end
local tokens, past = hmget(held, ids), histories(ids)
local released, again, changed, asking = {}, {}, {}, {}

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

-- A job asks for more time than it ever had, by this factor, once so many of its attempts were ended for lack of time.
local MOST_LACKS, TIME_FACTOR = 3, 1.25

-- Count an attempt that was ended for lack of time, after `ran_ms`, unless it has saved a checkpoint, or its job was
-- submitted with a request. Returns how often that was so, and the seconds that the job asks for from now on; nothing
-- when nothing has changed.
local function count_time_lack(id, attempt, ran_ms)
  local shape = shapes_of({ id })[1] or '1'
  local slots, asked_s = parse_shape(shape)
  begin_extras(meta[2])
  meta[2] = '1'
  local values = extras().values
  local saved = string.match(values('checkpoints', { id })[1] or '', '^(%d+) ')
  if tonumber(saved) == attempt then return end
  mend('HMGET', extra_key('time_lacks'), id)
  local times, longest_ms = string.match(values('time_lacks', { id })[1] or '', '^(%d+) (%d+)$')
  if asked_s > 0 and not times or slots == math.huge then return end
  times, longest_ms = (tonumber(times) or 0) + 1, math.max(tonumber(longest_ms) or 0, ran_ms)
  -- What is longer is no count.
  if times > 1e9 or longest_ms > 1e12 then times, longest_ms = 1, ran_ms end
  redis.call('HSET', extra_key('time_lacks'), id, string.format('%d %d', times, longest_ms))
  local wanted_s = math.ceil(longest_ms * TIME_FACTOR / 1000)
  local limit_s = tonumber(meta[6])
  if limit_s and limit_s > 0 then wanted_s = math.min(wanted_s, math.ceil(limit_s)) end
  if times < MOST_LACKS or wanted_s <= asked_s then return end
  shape = new_shape(slots, wanted_s)
  redis.call('HSET', WIDTHS, id, shape)
  local _, seconds = parse_shape(shape)
  return times, seconds
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
      local reason, facts = ARGV[at + 2], facts_since(started, request, now_ms())
      if ARGV[at + 4] == '1' and facts then
        local lacks, seconds = count_time_lack(id, attempt, tonumber(string.match(facts, '^%d+')))
        if lacks then
          asking[#asking + 1], asking[#asking + 2] = id, seconds
          reason = reason .. '; given back ' .. lacks .. ' times for lack of time, the job asks for ' .. seconds
            .. ' s from now on (time_request)'
        end
      end
      log_failure(id, attempt, 'released', worker, reason, '', facts)
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
if meta[2] then extras().forget_live(released) end
write_histories(changed)
to_pending(again)
if leaves and redis.call('HLEN', held) == 0 then
  leave(worker)
  -- It may have taken the marker and leave without having used it.
  wake_for_waiting()
end
if #released > 0 then wake_if_limited() end
return { #released, asking }

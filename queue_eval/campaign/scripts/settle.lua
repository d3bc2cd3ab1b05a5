-- Settle attempts (ack or nack), and lease the next jobs in the same call.
-- ARGV: uid, worker, lease_ms (0: extend nothing and lease nothing), request (see include/requests.lua), room,
--       prefetch, slots (how many the worker has in all), left_s (how many whole seconds a job may run on the worker;
--       '': as many as it likes), place (of the worker's checkpoints: see include/near_first.lua), then per settlement:
--       id, proof, outcome (ok|stopped|error|timeout|lost|nan|inf|cancelled), facts ("run_ms age_ms source"), body, output, digest
--   proof: "attempt request " with the request of the attempt's lease, "attempt " where it is not known.
--   digest: the first 16 digits of the SHA-1 of its config, or ''. A server that has gone back in time (a power cut,
--     a failover) gives ids and tokens again: what comes from another lease under an equal token is not held, and
--     counts only for a job of the same config.
--   age_ms: how long ago the attempt ended, by the worker's own clock; body: result (JSON) or error text.
-- Reply: { leases, next_due_ms or '', now_ms, revision, verdicts, reserved_slots, has_other_wide_jobs (0|1),
--   is_prefetch_limited (0|1), extras, may_have_shapes (0|1) }
--   leases: flat: id, attempt, slots (0: prefetched), config
--   verdicts[i]: one of recorded, again, stale, finished
--   reserved_slots, has_other_wide_jobs, is_prefetch_limited and may_have_shapes: see include/lease.lua.
--   extras: flat: id, stop (0|1), checkpoint ("attempt save place" or ''), of leased jobs that have either
-- stopped: a success of a job that was asked to stop early, and tells so.
-- A cancelled attempt was stopped since its job was finished: its output is kept if the job was cancelled, and
-- nothing else comes of it.
-- Success counts while the job is open, even from a stale attempt: the newer attempt is withdrawn from
-- wherever it is. A stale failure is dropped.
-- Repeating it is safe: a settled job is in the index or no longer held under that token; a repeated
-- request gets the same leases.
-- include bulk columns config_of extras finish gone held_key history hmget holders is_job lease log_failure lose
-- include now_ms take_from to_pending wake wake_if_limited withdraw write_history
local uid, worker, lease_ms, request = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local room, prefetch, slots = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local left_s = tonumber(ARGV[8]) or math.huge
-- One look for all that is needed of it: each call costs as much as several fields.
local meta = redis.call('HMGET', META, 'uid', 'revision', 'paused', 'most_running', 'last_id', 'max_attempts',
  'max_losses', 'retry_first_ms', 'retry_factor', 'retry_max_ms', 'extras')
if meta[1] ~= uid then return GONE end
local now = now_ms()
local held = held_key(worker)
local FIRST_ARG, ARGS_EACH = 10, 7
local IS_SUCCESS = { ok = true, stopped = true }
local verdicts = {}
local extra = meta[11] and extras()

if #ARGV >= FIRST_ARG then
  local ids = {}
  for at = FIRST_ARG, #ARGV, ARGS_EACH do ids[#ids + 1] = ARGV[at] end
  local tokens, past = hmget(held, ids), histories(ids)
  local last_id = tonumber(meta[5])
  local max_attempts, max_losses = tonumber(meta[6]) or 1, tonumber(meta[7]) or 1
  local first_ms, factor, max_ms = tonumber(meta[8]) or 0, tonumber(meta[9]) or 1, tonumber(meta[10]) or 0

  local mine, others, places = {}, {}, {}
  for i, id in ipairs(ids) do
    -- What is held begins with the proof.
    mine[i] = tokens[i] and string.find(tokens[i], ARGV[FIRST_ARG + (i - 1) * ARGS_EACH + 1], 1, true) == 1
    if not mine[i] then
      others[#others + 1] = id
      places[#places + 1] = i
    end
  end
  -- What is held is not finished: only the others are looked up. HLEN fails here if INDEX is not a hash, before
  -- anything is written.
  redis.call('HLEN', INDEX)
  local finished, strays, stray_places = {}, {}, {}
  for k, entry in ipairs(hmget(INDEX, others)) do
    local i = places[k]
    finished[i] = entry
    if not entry and IS_SUCCESS[ARGV[FIRST_ARG + (i - 1) * ARGS_EACH + 2]] then
      strays[#strays + 1] = ids[i]
      stray_places[#stray_places + 1] = i
    end
  end
  local foreign = {}
  for k, config in ipairs(hmget(CONFIGS, strays)) do
    local i = stray_places[k]
    local digest = ARGV[FIRST_ARG + (i - 1) * ARGS_EACH + 6]
    foreign[i] = digest ~= '' and string.sub(redis.sha1hex(config_of(config)), 1, 16) ~= digest
  end
  local elsewhere = #strays > 0 and holders(strays) or {}

  local entries, dropped, forgotten, changed, again, closed = {}, {}, {}, {}, {}, {}
  local points = extra and extra.kept_points(ids) or {}
  local succeeded = {}
  local report = { worker = worker }
  local function settle_one(i, id)
    local at = FIRST_ARG + (i - 1) * ARGS_EACH
    local attempt, outcome = tonumber(string.match(ARGV[at + 1], '^%d+')), ARGV[at + 2]
    report.facts, report.body, report.output, report.cause = ARGV[at + 3], ARGV[at + 4], ARGV[at + 5], nil
    report.points, report.attempt = points[id], attempt
    local is_success = IS_SUCCESS[outcome]
    if outcome == 'stopped' then report.cause = outcome end
    if outcome == 'cancelled' then
      verdicts[i] = finished[i] and 'finished' or 'stale'
      if finished[i] and report.output ~= '' and redis.call('SISMEMBER', CANCELLED, id) == 1
        and redis.call('HEXISTS', OUTPUTS, id) == 0 then
        redis.call('HSET', OUTPUTS, id, report.output)
      end
      return
    end
    if finished[i] or closed[id] == 'recorded' then
      verdicts[i] = 'finished'
    elseif closed[id] or foreign[i] then
      verdicts[i] = 'stale'
    elseif is_success and mine[i] and not past[i] then
      verdicts[i] = 'recorded'
      closed[id] = 'recorded'
      succeeded[#succeeded + 1] = id
      finish(entries, id, math.max(attempt, 1), 0, 'succeeded', report)
    elseif is_success and (mine[i] or is_job(id, last_id)) then
      verdicts[i] = 'recorded'
      closed[id] = 'recorded'
      succeeded[#succeeded + 1] = id
      local h = parse_history(past[i])
      if not mine[i] then
        withdraw({ id })
        if elsewhere[id] then take_from(elsewhere[id], id, h) end
      end
      -- At least one: this one may have been given back, or be of before a retry.
      finish(entries, id, math.max(math.max(h.attempts, attempt) - h.uncharged, 1), h.releases, 'succeeded', report)
      if past[i] then forgotten[#forgotten + 1] = id end
    elseif not is_success and mine[i] then
      local h = parse_history(past[i])
      h.attempts = attempt
      h.suspect = 0
      report.cause = outcome
      verdicts[i] = 'recorded'
      if outcome == 'lost' then
        local waiting = #again
        lose(entries, again, id, h, max_losses, report)
        if #again > waiting then verdicts[i] = 'again' end
      else
        h.failures = h.failures + 1
        log_failure(id, attempt, outcome, worker, report.body, report.output, report.facts)
        -- A result that is no number would be none again: no further attempt.
        if h.failures >= max_attempts or outcome == 'nan' or outcome == 'inf' then
          finish(entries, id, attempt - h.uncharged, h.releases, 'failed', report)
        else
          -- The limit stands first: what overflows to nan (0 times infinity) is then the limit.
          local delay_ms = math.min(max_ms, first_ms * factor ^ (h.failures - 1))
          redis.call('ZADD', SCHEDULED, now + math.floor(delay_ms), id)
          wake()
          verdicts[i] = 'again'
        end
      end
      note_history(changed, id, h)
      closed[id] = verdicts[i]
    else
      verdicts[i] = 'stale'
    end
    if mine[i] then dropped[#dropped + 1] = id end
  end
  -- Successes first: one from a stale attempt counts also beside the failure of the newer attempt.
  for pass = 1, 2 do
    for i, id in ipairs(ids) do
      if (IS_SUCCESS[ARGV[FIRST_ARG + 2 + (i - 1) * ARGS_EACH]] ~= nil) == (pass == 1) then settle_one(i, id) end
    end
  end
  bulk('HSET', INDEX, entries)
  bulk('HDEL', held, dropped)
  write_histories(changed)
  bulk('HDEL', ATTEMPTS, forgotten)
  to_pending(again)
  if extra then
    local over = {}
    for k = 1, #entries, 2 do over[#over + 1] = entries[k] end
    extra.forget_live(dropped)
    extra.forget(over, true)
    extra.forget(succeeded)
  end
end

local leases, due, reserved_slots, has_other_wide_jobs, is_prefetch_limited, may_have_shapes = {}, nil, 0
if lease_ms > 0 then
  redis.call('ZADD', WORKERS, now + lease_ms, worker)
  leases, due, reserved_slots, has_other_wide_jobs, is_prefetch_limited, may_have_shapes =
    lease(worker, request, room, prefetch, slots, left_s, now, meta[3] == '1', meta[4],
      ARGV[9], extra)
else
  wake_if_limited()
end
local told = {}
if extra and #leases > 0 then
  local ids = {}
  for at = 1, #leases, 4 do ids[#ids + 1] = leases[at] end
  local stops, checkpoints = extra.values('stops', ids), extra.values('checkpoints', ids)
  for i, id in ipairs(ids) do
    local checkpoint = string.match(checkpoints[i] or '', '^%d+ %d+ [!-~]+$') or ''
    if stops[i] or checkpoint ~= '' then
      local at = #told
      told[at + 1], told[at + 2], told[at + 3] = id, stops[i] and 1 or 0, checkpoint
    end
  end
end
return { leases, due or '', now, tonumber(meta[2]) or 0, verdicts,
         reserved_slots, has_other_wide_jobs and 1 or 0, is_prefetch_limited and 1 or 0, told,
         may_have_shapes and 1 or 0 }

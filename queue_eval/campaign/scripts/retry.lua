-- Run failed or cancelled jobs again: they are submitted anew, with no failure or loss. The attempt numbers
-- go on, so that no old token is ever valid again. Their former outcome stays in the log; the index forgets it. A request to
-- stop early is forgotten; checkpoint and reports stay.
-- ARGV: uid, then ids; or uid, 'results', then per finished job, however it ended: id, its entry in the stream
-- Reply: { the ids that are pending again by this call, resting (0|1) as in enqueue }
-- Repeating it is safe: a job that is pending again is no longer failed or cancelled, and has no such entry.
-- include bulk columns config_of extras gone history hmget is_gone is_resting now_ms parse_head
-- include stamp_of to_pending write_history
local uid = ARGV[1]
if is_gone(uid) then return GONE end
local now = now_ms()
local ids, changed = {}, {}
local by_result = ARGV[2] == 'results'
-- The history of what succeeded is forgotten but for what its outcome tells, and attempts that were given back
-- without a word: so many numbers are left out for those.
local UNTOLD = 10
local extra = redis.call('HGET', META, 'extras') and extras()
local function history_of(id, entry)
  local found = redis.pcall('XRANGE', RESULTS, entry, entry)
  local executions, releases = 0, 0
  local fields = found[1] and found[1][2] or {}
  for i = 1, #fields, 2 do
    if fields[i] == 'outcome' then executions = tonumber(string.match(fields[i + 1], '^%S+ %S+ (%d+)')) or 0 end
    if fields[i] == 'releases' then releases = tonumber(fields[i + 1]) or 0 end
  end
  local uncharged = releases + UNTOLD
  -- Reports tell of the numbers that were left out.
  local head = extra and parse_head(extra.values('report_heads', { id })[1] or '') or {}
  uncharged = math.max(uncharged, (head.attempt or 0) - executions)
  return new_history(executions + uncharged, uncharged)
end
for i = by_result and 3 or 2, #ARGV, by_result and 2 or 1 do
  local id = ARGV[i]
  if not by_result or redis.call('HGET', INDEX, id) == ARGV[i + 1] then
    local was_failed = redis.call('SREM', FAILED, id)
    if was_failed + redis.call('SREM', CANCELLED, id) > 0 then
      ids[#ids + 1] = id
    elseif by_result then
      ids[#ids + 1] = id
      note_history(changed, id, history_of(id, ARGV[i + 1]))
    end
  end
end
local configs, past = hmget(CONFIGS, ids), histories(ids)
local restamped = {}
for i, id in ipairs(ids) do
  restamped[#restamped + 1] = id
  restamped[#restamped + 1] = stamp_of(now) .. config_of(configs[i])
  if past[i] then
    local h = parse_history(past[i])
    note_history(changed, id, new_history(h.attempts, h.uncharged))
  end
end
bulk('HSET', CONFIGS, restamped)
write_histories(changed)
bulk('HDEL', INDEX, ids)
bulk('HDEL', OUTPUTS, ids)
if extra then extra.forget(ids, true) end
if #ids > 0 then redis.call('HINCRBY', META, 'retried', #ids) end
to_pending(ids)
return { ids, is_resting() }

-- Cancel jobs that are not finished, wherever they are. A worker that runs one learns it from a notice or
-- its next extension; the job is cancelled from this moment on.
-- ARGV: uid, then ids; or uid, 'waiting', then ids: then no job that a worker holds is cancelled
-- Reply: the ids that were cancelled by this call
-- Repeating it is safe: a cancelled job is finished.
-- include bulk columns distinct_jobs extras facts_since finish gone history hmget holders is_gone now_ms take_from
-- include wake_if_limited withdraw write_history
local uid = ARGV[1]
if is_gone(uid) then return GONE end
local meta = redis.call('HMGET', META, 'last_id', 'extras')
local only_waiting = ARGV[2] == 'waiting'
local ids = distinct_jobs(only_waiting and 3 or 2, tonumber(meta[1]))
local finished, past, held = hmget(INDEX, ids), histories(ids), holders(ids)
local entries, cancelled, changed, waiting = {}, {}, {}, {}
local extra = meta[2] and extras()
local points = extra and extra.kept_points(ids) or {}
local now = now_ms()
for i, id in ipairs(ids) do
  if not finished[i] and not (only_waiting and held[id]) then
    local h = parse_history(past[i])
    local worker, facts = '', nil
    if held[id] then
      local started, request = take_from(held[id], id, h)
      facts = facts_since(started, request, now)
      worker = held[id][1]
    else
      waiting[#waiting + 1] = id
    end
    finish(entries, id, h.attempts - h.uncharged, h.releases, 'cancelled',
      { worker = worker, facts = facts, points = points[id] })
    cancelled[#cancelled + 1] = id
    if h.attempts > 0 then note_history(changed, id, h) end
  end
end
withdraw(waiting)
bulk('HSET', INDEX, entries)
write_histories(changed)
if extra then extra.forget(cancelled) end
if #cancelled > #waiting then wake_if_limited() end
return cancelled

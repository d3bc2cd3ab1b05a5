-- Ask jobs to stop early that are not finished and run, or have begun before: the next attempt is told at its start.
-- ARGV: uid, then ids
-- Reply: { asked, looking, workers }: ids that are asked now, by this call or before; those of them whose running
--   attempt has looked at stop_requested; the workers that hold any of them
-- Repeating it is safe: what is asked already stays so.
-- include begin_extras bulk columns distinct_jobs extra_key extras gone history hmget holders mend now_ms parse_head
-- include parse_held
local meta = redis.call('HMGET', META, 'uid', 'last_id', 'extras')
if meta[1] ~= ARGV[1] then return GONE end
local ids = distinct_jobs(2, tonumber(meta[2]))
local finished, past, held = hmget(INDEX, ids), histories(ids), holders(ids)
local values = extras().values
local known = meta[3] and values('stops', ids) or {}
local now, asked, marks, running, workers, is_named = now_ms(), {}, {}, {}, {}, {}
for i, id in ipairs(ids) do
  local worker, value = unpack(held[id] or {})
  local attempt, _, started = parse_held(value or '')
  local h = parse_history(past[i])
  local has_begun = (value and started) or h.attempts > h.uncharged or h.releases > 0
  if (has_begun or known[i]) and not finished[i] then
    asked[#asked + 1] = id
    if not known[i] then
      marks[#marks + 1] = id
      marks[#marks + 1] = now
    end
    running[id] = value and attempt
    if value and not is_named[worker] then
      is_named[worker] = true
      workers[#workers + 1] = worker
    end
  end
end
if #asked == 0 then return { {}, {}, {} } end

begin_extras(meta[3])
mend('HMGET', extra_key('stops'), asked[1])
bulk('HSET', extra_key('stops'), marks)
local looking = {}
for i, value in ipairs(values('report_heads', asked)) do
  if running[asked[i]] and parse_head(value or '').looked == running[asked[i]] then
    looking[#looking + 1] = asked[i]
  end
end
return { asked, looking, workers }

-- include columns

-- The facts of an outcome of which no worker has told any: no run_ms, an age_ms of 0, no source.
local NO_FACTS = ' 0 '

-- Append one terminal outcome to the result stream; collect what the index needs into `entries`.
-- `executions` counts attempts whose execution began and was charged; `releases` those that were given back.
-- report: { facts, worker, cause, body, output, points, attempt }
--   facts: "run_ms age_ms source", as the worker tells them; points: how many reports of the job are kept, if any
--   attempt: the number of the attempt that settles the job, where it is known
-- The stream tells the state by its first letter: s, f or c.
local function finish(entries, id, executions, releases, state, report)
  local text = id .. ' ' .. string.sub(state, 1, 1) .. ' ' .. executions .. ' ' .. (report.facts or NO_FACTS) .. ' '
    .. (report.worker or '') .. ' ' .. (report.cause or '')
  local entry
  local is_other = report.attempt and report.attempt ~= executions
  if releases > 0 or report.points or is_other then
    local more = releases > 0 and { 'releases', releases } or {}
    local function add(field, value)
      more[#more + 1] = field
      more[#more + 1] = value
    end
    if report.points then add('reports', report.points) end
    if is_other then add('attempt', report.attempt) end
    entry = redis.call('XADD', RESULTS, '*', 'outcome', text, 'body', report.body or '', unpack(more))
  else
    entry = redis.call('XADD', RESULTS, '*', 'outcome', text, 'body', report.body or '')
  end
  entries[#entries + 1] = id
  entries[#entries + 1] = entry
  if report.output and report.output ~= '' then redis.call('HSET', OUTPUTS, id, report.output) end
  if state == 'failed' then redis.call('SADD', FAILED, id) end
  if state == 'cancelled' then redis.call('SADD', CANCELLED, id) end
end

-- include columns

-- Append one terminal outcome to the result stream; collect what the index needs into `entries`.
-- `executions` counts attempts whose execution began and was charged; `releases` those that were given back.
-- outcome: { facts, worker, cause, body, output }
--   facts: "run_ms age_ms source", as the worker tells them
-- The stream tells the state by its first letter: s, f or c.
local function finish(entries, id, executions, releases, state, outcome)
  local text = id .. ' ' .. string.sub(state, 1, 1) .. ' ' .. executions .. ' ' .. (outcome.facts or ' 0 ') .. ' '
    .. (outcome.worker or '') .. ' ' .. (outcome.cause or '')
  local entry
  if releases > 0 then
    entry = redis.call('XADD', RESULTS, '*', 'outcome', text, 'body', outcome.body or '', 'releases', releases)
  else
    entry = redis.call('XADD', RESULTS, '*', 'outcome', text, 'body', outcome.body or '')
  end
  entries[#entries + 1] = id
  entries[#entries + 1] = entry
  if outcome.output and outcome.output ~= '' then redis.call('HSET', OUTPUTS, id, outcome.output) end
  if state == 'failed' then redis.call('SADD', FAILED, id) end
  if state == 'cancelled' then redis.call('SADD', CANCELLED, id) end
end

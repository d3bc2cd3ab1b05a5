-- include columns

-- Put an attempt that came to nothing on record. facts: see finish.lua; nil where none are known.
local function log_failure(id, attempt, cause, worker, body, output, facts)
  redis.call('XADD', FAILURES, 'MAXLEN', '~', 10000, '*', 'job', id, 'attempt', attempt, 'cause', cause,
    'worker', worker, 'body', body, 'output', output or '', 'facts', facts or '')
end

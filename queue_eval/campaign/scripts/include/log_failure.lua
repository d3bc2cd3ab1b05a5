-- include columns

-- Put an attempt that came to nothing on record.
local function log_failure(id, attempt, cause, worker, body, output)
  redis.call('XADD', FAILURES, 'MAXLEN', '~', 10000, '*', 'job', id, 'attempt', attempt, 'cause', cause,
    'worker', worker, 'body', body, 'output', output or '')
end

-- Which life of the server this is: another one after each restart or failover.
local function server_run()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
end

-- Open a campaign: create it, or continue it when it is of the same function and method.
-- ARGV: uid, schema, accept (0|1), now many (field, value) pairs of meta that are set by each opening
--       (function, method, source, options, max_attempts, max_losses, retry_first_ms, retry_factor,
--       retry_max_ms, payload, signature, ...)
--       With a pair signed_for ("uid revision") the signature is for just that opening.
-- Reply: as of include/standing.lua; function, method, source and options are those of before
--   status: created | opened | conflict (nothing changed) | schema (nothing changed)
--           | moved (nothing changed: another opening came first; no reply at all if it was purged)
-- Repeating it is safe: the second call opens what the first created, or has moved.
-- include clear_extras columns now_ms server_run standing wake_for_waiting
local uid, schema, accept = ARGV[1], ARGV[2], ARGV[3]
local wanted = {}
for i = 4, #ARGV, 2 do wanted[ARGV[i]] = ARGV[i + 1] end

local now = now_ms()
local known = redis.call('HMGET', META, 'uid', 'schema', 'function', 'method', 'revision')
local status = 'opened'
local coming = (known[1] or uid) .. ' ' .. string.format('%d', (tonumber(known[5]) or 0) + 1)
if known[1] and known[2] ~= schema then
  status = 'schema'
elseif known[1] and accept ~= '1' and (known[3] ~= wanted['function'] or known[4] ~= wanted['method']) then
  status = 'conflict'
elseif wanted['signed_for'] and wanted['signed_for'] ~= coming then
  status = 'moved'
elseif not known[1] then
  status = 'created'
  clear_extras()
  -- Seen by those who reclaim: a server that is frozen before any of them has asked was away, too.
  redis.call('HSET', META, 'uid', uid, 'schema', schema, 'created_ms', now, 'last_id', 0,
    'server_run', server_run(), 'reclaim_seen', now)
end
local reply = standing(status)
if status == 'created' or status == 'opened' then
  redis.call('HSET', META, unpack(ARGV, 4))
  -- Who opens it so wakes it, too: see rest.lua.
  redis.call('HSET', META, 'wakes', redis.call('HINCRBY', META, 'revision', 1), 'opened_ms', now)
  -- Another limit may let waiting jobs run; under the old one no marker was left.
  wake_for_waiting()
end
return reply

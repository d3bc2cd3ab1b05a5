-- Open a campaign: create it, or continue it when it is of the same function and method.
-- ARGV: uid, schema, accept (0|1), now many (field, value) pairs of meta that are set by each opening
--       (function, method, source, options, max_attempts, max_losses, retry_first_ms, retry_factor,
--       retry_max_ms, payload, signature, ...)
-- Reply: { status, uid, created_ms, last_id, finished, tail, now_ms, function, method, source, options }
--   status: created | opened | conflict (nothing changed) | schema (nothing changed)
--   tail is the newest entry of the result stream: what finishes from now on comes after it.
-- Repeating it is safe: the second call opens what the first created.
local uid, schema, accept = ARGV[1], ARGV[2], ARGV[3]
local wanted = {}
for i = 4, #ARGV, 2 do wanted[ARGV[i]] = ARGV[i + 1] end

local now = now_ms()
local known = redis.call('HMGET', META, 'uid', 'created_ms', 'last_id', 'function', 'method', 'source',
  'options', 'schema')
local status = 'opened'
if not known[1] then
  status = 'created'
  redis.call('HSET', META, 'uid', uid, 'schema', schema, 'created_ms', now, 'last_id', 0)
  known[1], known[2], known[3] = uid, now, 0
elseif known[8] ~= schema then
  status = 'schema'
elseif accept ~= '1' and (known[4] ~= wanted['function'] or known[5] ~= wanted['method']) then
  status = 'conflict'
end
if status == 'created' or status == 'opened' then
  redis.call('HSET', META, unpack(ARGV, 4))
  redis.call('HINCRBY', META, 'revision', 1)
end
local newest = redis.call('XREVRANGE', RESULTS, '+', '-', 'COUNT', 1)
return { status, known[1], tonumber(known[2]), tonumber(known[3]), redis.call('HLEN', INDEX),
         newest[1] and newest[1][1] or '0-0', now, known[4] or '', known[5] or '', known[6] or '',
         known[7] or '', known[8] or schema }

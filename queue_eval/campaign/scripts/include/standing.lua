-- include columns newest_entry now_ms

-- A campaign at this moment: { status, uid, created_ms, last_id, finished, tail, now_ms, function, method,
-- source, options, schema, retried }; nil when there is none. Python reads it as `StandingReply`.
--   tail: the newest entry of the result stream; what finishes from now on comes after it.
--   retried: how many finished jobs were made open again by the user, ever.
local function standing(status)
  local m = redis.call('HMGET', META, 'uid', 'created_ms', 'last_id', 'function', 'method', 'source',
    'options', 'schema', 'retried')
  if not m[1] then return nil end
  -- A damaged number is replied as '': a reply ends at the first nil.
  return { status, m[1], tonumber(m[2]) or '', tonumber(m[3]) or '', redis.call('HLEN', INDEX), newest_entry(),
           now_ms(), m[4] or '', m[5] or '', m[6] or '', m[7] or '', m[8] or '', tonumber(m[9] or 0) or '' }
end

-- What stands in `live`: "attempt total", then the newest of the so many bytes that the attempt has printed. A damaged
-- value reads as no attempt that has printed nothing.
local function parse_live(value)
  local attempt, total, at = string.match(value, '^(%d+) (%d+)\n()')
  if not attempt or #attempt >= 15 or #total >= 15 then return { total = 0, text = '' } end
  return { attempt = tonumber(attempt), total = tonumber(total), text = string.sub(value, at) }
end

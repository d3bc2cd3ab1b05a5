-- What stands in `held`: "attempt request started". A damaged value reads as attempt 0, begun: one bad job must not
-- stop the moves of all others.
local function parse_held(value)
  local attempt, request, started = string.match(value, '^(%d+) (%S+) (%d)$')
  return tonumber(attempt) or 0, request, started ~= '0'
end

-- The facts (see finish.lua) of an execution that ends now, of which no worker has told any: how long ago its lease
-- was asked for. nil for one that had not begun, or where that is not known.
local FIRST_TIME_MS = 1e12
local function facts_since(started, request, now)
  -- A worker numbers its requests by the time of the server.
  local began_ms = tonumber(string.match(request or '', '%-(%d+)$'))
  if started and began_ms and began_ms > FIRST_TIME_MS and began_ms <= now then return (now - began_ms) .. ' 0 ' end
end

-- include columns

local function newest_entry()
  local newest = redis.call('XREVRANGE', RESULTS, '+', '-', 'COUNT', 1)
  return newest[1] and newest[1][1] or '0-0'
end

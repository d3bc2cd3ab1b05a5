-- include columns hmget

-- How many slots each of these jobs takes; nil for one.
local function widths_of(ids)
  if redis.call('ZCARD', WIDE) == 0 then return {} end
  return hmget(WIDTHS, ids)
end

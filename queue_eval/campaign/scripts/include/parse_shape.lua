-- The slots that a job of this shape takes, and the seconds that it asks for. "slots", or "slots@seconds", which a
-- worker of an earlier version takes for no width, and leaves alone. A damaged shape fits nowhere.
local function parse_shape(shape)
  local slots, seconds = string.match(shape, '^(%d+)$'), '0'
  if not slots then slots, seconds = string.match(shape, '^(%d+)@(%d+)$') end
  if not slots or #slots > 9 or #seconds > 9 then return math.huge, 0 end
  return tonumber(slots), tonumber(seconds)
end

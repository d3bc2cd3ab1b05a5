-- include chunk

-- HMGET of an extra column, of as many fields as there are. A damaged column reads as empty.
local function extra_values(column, fields)
  local all = {}
  for first = 1, #fields, CHUNK do
    local found = redis.pcall('HMGET', column, unpack(fields, first, math.min(first + CHUNK - 1, #fields)))
    if found.err then return {} end
    for i, value in ipairs(found) do all[first + i - 1] = value end
  end
  return all
end

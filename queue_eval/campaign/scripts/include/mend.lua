-- Before an extra column is written to: delete it if something else has written another type to it, as `probe` tells,
-- a command that reads it.
local function mend(probe, column, ...)
  local found = redis.pcall(probe, column, ...)
  if type(found) == 'table' and found.err and string.find(found.err, 'WRONGTYPE', 1, true) then
    redis.call('DEL', column)
  end
end

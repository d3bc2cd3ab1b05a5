-- include columns held_key hmget parse_held parse_shape shapes_of

-- A request is "<life>-<number>". Its number grows with each new call of one life of a worker. It is about the
-- time of the call (server, ms), except from workers of earlier versions. cancel.lua takes it for the time of the
-- lease.
local function is_older(request, last)
  local life, number = string.match(request, '^(.-)(%d+)$')
  local last_life, last_number = string.match(last, '^(.-)(%d+)$')
  return life ~= nil and life == last_life and tonumber(number) < tonumber(last_number)
end

-- What the worker still holds of the leases that this request was given, flat, as lease replies them.
local function leases_of(worker, request)
  local leased, ids = {}, {}
  local all = redis.call('HGETALL', held_key(worker))
  for i = 1, #all, 2 do
    local attempt, made_by, started = parse_held(all[i + 1])
    if made_by == request then
      ids[#ids + 1] = all[i]
      leased[#leased + 1] = { attempt, started and 1 or 0 }
    end
  end
  local reply, shapes = {}, shapes_of(ids)
  for i, config in ipairs(hmget(CONFIGS, ids)) do
    local attempt, starts = unpack(leased[i])
    local slots = shapes[i] and parse_shape(shapes[i]) or 1
    if slots > 1 and slots < math.huge then starts = slots end
    local at = #reply
    reply[at + 1], reply[at + 2], reply[at + 3], reply[at + 4] =
      ids[i], attempt, starts, config or ''
  end
  return reply
end

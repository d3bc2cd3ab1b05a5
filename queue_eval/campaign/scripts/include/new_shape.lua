-- include columns wake

-- Every settle looks at the place of each shape: beyond so many shapes, requests are rounded more coarsely.
local FINE_SHAPES = 100

local function round_up(seconds, digits)
  local step = 10 ^ math.max(0, #string.format('%d', seconds) - digits)
  return string.format('%d', math.ceil(seconds / step) * step)
end

-- A shape for jobs that take these slots and ask for these whole seconds, which are rounded up to three digits, or to
-- two. It is known from now on, whichever jobs have it.
local function new_shape(slots, seconds)
  local shape = string.format('%d', slots)
  if seconds > 0 then
    local fine = shape .. '@' .. round_up(seconds, 3)
    local is_fine = redis.call('ZSCORE', WIDE, fine) or redis.call('ZCARD', WIDE) < FINE_SHAPES
    shape = is_fine and fine or shape .. '@' .. round_up(seconds, 2)
  end
  -- Workers of one slot listen to the marker of such jobs once they have seen that there are any.
  if redis.call('ZADD', WIDE, slots, shape) == 1 and seconds > 0 then wake() end
  return shape
end

-- include prefix

-- Jobs that take several slots, or ask for time, wait apart, by their shape: a worker never sees those that it has
-- not the slots or the time for, and campaigns without any pay nothing.
local function shape_key(shape)
  return PREFIX .. 'pending:' .. shape
end

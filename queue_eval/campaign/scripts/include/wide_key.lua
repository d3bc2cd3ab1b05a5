-- include prefix

-- Jobs that take several slots are wide. They wait apart, by their width, so that a worker never sees those that
-- it has not the slots for, and campaigns without any pay nothing.
local function wide_key(width)
  return PREFIX .. 'pending:' .. width
end

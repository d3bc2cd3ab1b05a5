-- include columns shape_key

-- The shapes that jobs of this campaign have, or once had, the narrowest first. Jobs of one slot that ask for no time
-- have none.
local function all_shapes()
  return redis.call('ZRANGE', WIDE, 0, -1)
end

-- How many jobs are pending in the places of all shapes.
local function pending_apart()
  local count = 0
  for _, shape in ipairs(all_shapes()) do count = count + redis.call('ZCARD', shape_key(shape)) end
  return count
end

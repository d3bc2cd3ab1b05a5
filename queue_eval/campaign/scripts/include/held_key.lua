-- include prefix

local function held_key(worker)
  return PREFIX .. 'held:' .. worker
end

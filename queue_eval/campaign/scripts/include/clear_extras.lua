-- include extra_keys

local function clear_extras()
  redis.call('DEL', extra_keys())
end

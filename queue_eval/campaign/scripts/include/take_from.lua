-- include count_lease held_key

-- Take a job from its holder, and count the lease. Returns what count_lease does.
local function take_from(holder, id, h)
  redis.call('HDEL', held_key(holder[1]), id)
  return count_lease(h, holder[2])
end

-- include columns

-- Whether the campaign that has this uid is no more.
local function is_gone(uid)
  return redis.call('HGET', META, 'uid') ~= uid
end

-- include columns

-- Whether no worker looks at the campaign (0|1).
local function is_resting()
  return redis.call('HEXISTS', META, 'resting')
end

-- include columns wide_key

-- The widths that wide jobs of this campaign have, or once had, the smallest first.
local function wide_widths()
  return redis.call('ZRANGE', WIDE, 0, -1)
end

-- How many wide jobs are pending.
local function wide_pending()
  local count = 0
  for _, width in ipairs(wide_widths()) do count = count + redis.call('ZCARD', wide_key(width)) end
  return count
end

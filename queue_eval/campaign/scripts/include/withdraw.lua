-- include bulk columns wide_key widths_of

-- Take jobs away from where they wait.
local function withdraw(ids)
  bulk('ZREM', PENDING, ids)
  bulk('ZREM', SCHEDULED, ids)
  for i, width in pairs(widths_of(ids)) do
    if width then redis.call('ZREM', wide_key(width), ids[i]) end
  end
end

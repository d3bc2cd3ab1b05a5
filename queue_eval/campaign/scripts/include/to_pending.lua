-- include bulk columns hmget pending_score wake wide_key widths_of

-- Make jobs pending, each at its place by priority and id, and wake workers.
local function to_pending(ids)
  if #ids == 0 then return end
  local priorities = redis.call('HLEN', PRIORITIES) > 0 and hmget(PRIORITIES, ids) or {}
  local widths, members, wide = widths_of(ids), {}, {}
  for i, id in ipairs(ids) do
    local list = members
    if widths[i] then
      wide[widths[i]] = wide[widths[i]] or {}
      list = wide[widths[i]]
    end
    list[#list + 1] = pending_score(id, tonumber(priorities[i] or 0))
    list[#list + 1] = id
  end
  if #members > 0 then
    bulk('ZADD', PENDING, members)
    wake()
  end
  for width, list in pairs(wide) do
    bulk('ZADD', wide_key(width), list)
    wake_wide()
  end
end

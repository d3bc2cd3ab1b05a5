-- include bulk columns hmget pending_score shape_key shapes_of wake

-- Make jobs pending, each at its place by priority and id, and wake workers.
local function to_pending(ids)
  if #ids == 0 then return end
  local priorities = redis.call('HLEN', PRIORITIES) > 0 and hmget(PRIORITIES, ids) or {}
  local shapes, members, apart = shapes_of(ids), {}, {}
  for i, id in ipairs(ids) do
    local list = members
    if shapes[i] then
      apart[shapes[i]] = apart[shapes[i]] or {}
      list = apart[shapes[i]]
    end
    list[#list + 1] = pending_score(id, tonumber(priorities[i] or 0))
    list[#list + 1] = id
  end
  if #members > 0 then
    bulk('ZADD', PENDING, members)
    wake()
  end
  for shape, list in pairs(apart) do
    bulk('ZADD', shape_key(shape), list)
    wake_wide()
  end
end

-- include bulk columns shape_key shapes_of

-- Take jobs away from where they wait.
local function withdraw(ids)
  bulk('ZREM', PENDING, ids)
  bulk('ZREM', SCHEDULED, ids)
  for i, shape in pairs(shapes_of(ids)) do
    if shape then redis.call('ZREM', shape_key(shape), ids[i]) end
  end
end

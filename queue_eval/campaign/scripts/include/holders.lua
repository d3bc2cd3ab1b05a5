-- include columns held_key hmget

-- Which worker holds each of `ids`: id -> { worker, held value }. For rare moves: it asks every worker, and of
-- each worker whichever is shorter, for these ids or for all that it holds.
local function holders(ids)
  local found, wanted = {}, {}
  for _, id in ipairs(ids) do wanted[id] = true end
  for _, worker in ipairs(redis.call('ZRANGE', WORKERS, 0, -1)) do
    local held = held_key(worker)
    if redis.call('HLEN', held) < #ids then
      local all = redis.call('HGETALL', held)
      for i = 1, #all, 2 do
        if wanted[all[i]] then found[all[i]] = { worker, all[i + 1] } end
      end
    else
      for i, value in ipairs(hmget(held, ids)) do
        if value then found[ids[i]] = { worker, value } end
      end
    end
  end
  return found
end

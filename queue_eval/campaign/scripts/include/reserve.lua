-- include columns shape_key

-- The first reservations of a wide job keep others from reserving, too; for so long. A worker that frees no
-- slots meanwhile may hold on to its own, but another one may be faster.
local RESERVED_MS = 2000

-- Whether a worker is to let its slots run free for a wide job of one of these `shapes`, rather than take the narrow
-- jobs behind it: unless as many others as there are such jobs do it already.
local function reserve(worker, shapes, now)
  local narrow = redis.call('ZRANGE', PENDING, 0, 0, 'WITHSCORES')
  local before = narrow[2] and '(' .. narrow[2] or '+inf'
  local ahead = 0
  for _, shape in ipairs(shapes) do ahead = ahead + redis.call('ZCOUNT', shape_key(shape), '-inf', before) end
  local since = tonumber(redis.call('ZSCORE', RESERVING, worker) or now)
  local others = redis.call('ZCOUNT', RESERVING, now - RESERVED_MS, since)
  if redis.call('ZSCORE', RESERVING, worker) and since >= now - RESERVED_MS then others = others - 1 end
  if others >= ahead then return false end
  redis.call('ZADD', RESERVING, 'NX', now, worker)
  return true
end

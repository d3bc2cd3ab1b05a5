-- include chunk extra_key

-- What moves do with the extra columns (see extra_key.lua). One function makes the others: to make each costs time,
-- also in campaigns that have no extras.
local function extras()
  -- HMGET of as many fields as there are. A damaged column reads as empty.
  local function values(column, fields)
    local key, all = extra_key(column), {}
    for first = 1, #fields, CHUNK do
      local found = redis.pcall('HMGET', key, unpack(fields, first, math.min(first + CHUNK - 1, #fields)))
      if found.err then return {} end
      for i, value in ipairs(found) do all[first + i - 1] = value end
    end
    return all
  end

  -- How many reports are kept of each of these jobs: id -> number, where there are any. See parse_head.lua.
  local function kept_points(ids)
    local found = {}
    for i, head in ipairs(values('report_heads', ids)) do
      local points = string.match(head or '', '^%d+ %d+ %d+ %d+ ([1-9]%d*) %d+ %d+ %d+$')
      if points and #points < 15 then found[ids[i]] = points end
    end
    return found
  end

  -- Forget what running attempts of these jobs print: they have ended.
  local function forget_live(ids)
    for first = 1, #ids, CHUNK do
      local last = math.min(first + CHUNK - 1, #ids)
      redis.pcall('HDEL', extra_key('live'), unpack(ids, first, last))
      redis.pcall('HDEL', extra_key('live_heads'), unpack(ids, first, last))
    end
  end

  -- Forget what stands there of jobs that are over, but for their reports.
  -- keeps_checkpoint: so that `retry` goes on from there
  local function forget(ids, keeps_checkpoint)
    for first = 1, #ids, CHUNK do
      local last = math.min(first + CHUNK - 1, #ids)
      redis.pcall('HDEL', extra_key('stops'), unpack(ids, first, last))
      redis.pcall('ZREM', extra_key('give_backs'), unpack(ids, first, last))
      redis.pcall('HDEL', extra_key('time_lacks'), unpack(ids, first, last))
      redis.pcall('HDEL', extra_key('distant'), unpack(ids, first, last))
      if not keeps_checkpoint then redis.pcall('HDEL', extra_key('checkpoints'), unpack(ids, first, last)) end
    end
    forget_live(ids)
  end

  return { values = values, kept_points = kept_points, forget = forget, forget_live = forget_live }
end

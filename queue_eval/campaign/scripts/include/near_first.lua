-- include bulk extra_key mend

-- How many jobs a worker looks at behind those that it may take, and for how long one is left to other workers.
local LOOK_BEHIND, PASS_OVER_MS = 100, 600000

-- How one worker takes jobs. It passes over a job whose checkpoint lies in a folder that it does not see, and takes
-- those behind first, for some minutes: meanwhile a worker that sees the folder may come. Where nothing else waits, or
-- nobody came, it takes the job, which begins anew.
-- place: the id of the worker's own folder, '' when it is not known; extra: see extras.lua, or nil.
-- Returns
--   take(key, count): remove up to so many of the first jobs of a place, and return them;
--   begun(leases): note which of the jobs that were granted begin anew; leases: see lease.lua.
-- Column `distant`: id -> "since_ms attempt": when the first worker passed it over, or 0, and the attempt that began
-- without its checkpoint, or 0.
local function near_first(place, extra, now)
  local function pop(key, count)
    local popped, ids = redis.call('ZPOPMIN', key, count), {}
    for i = 1, #popped, 2 do ids[#ids + 1] = popped[i] end
    return ids
  end
  local saved = place ~= '' and extra and redis.pcall('HLEN', extra_key('checkpoints'))
  if type(saved) ~= 'number' or saved == 0 then return pop, function() end end

  local is_distant, is_noted = {}, {}

  local function write(values)
    if #values == 0 then return end
    mend('HGET', extra_key('distant'), values[1])
    bulk('HSET', extra_key('distant'), values)
  end

  local function take(key, count)
    if count < 1 then return {} end
    local ids = redis.call('ZRANGE', key, 0, count + LOOK_BEHIND - 1)
    local checkpoints, notes = extra.values('checkpoints', ids), extra.values('distant', ids)
    local taken, left, last, since = {}, {}, 0, {}
    for i, id in ipairs(ids) do
      local there = string.match(checkpoints[i] or '', '^%d+ %d+ ([!-~]+)$')
      is_distant[id] = there ~= nil and there ~= place
      is_noted[id] = notes[i] and true
      since[i] = tonumber(string.match(notes[i] or '', '^([1-9]%d*) 0$')) or now
      -- A clock that was set back does not make it wait longer.
      if is_distant[id] and since[i] <= now and now - since[i] < PASS_OVER_MS then
        left[#left + 1] = i
      elseif #taken < count then
        taken[#taken + 1] = id
        last = i
      end
    end
    local passed_over = {}
    for _, i in ipairs(left) do
      if #taken < count then
        taken[#taken + 1] = ids[i]
      elseif i < last then
        passed_over[#passed_over + 1] = ids[i]
        passed_over[#passed_over + 1] = since[i] .. ' 0'
      end
    end
    write(passed_over)
    bulk('ZREM', key, taken)
    return taken
  end

  local function begun(leases)
    local anew, near = {}, {}
    for at = 1, #leases, 4 do
      local id = leases[at]
      if is_distant[id] then
        anew[#anew + 1] = id
        anew[#anew + 1] = '0 ' .. leases[at + 1]
      elseif is_noted[id] then
        near[#near + 1] = id
      end
    end
    write(anew)
    if #near > 0 then redis.pcall('HDEL', extra_key('distant'), unpack(near)) end
  end

  return take, begun
end

-- include bulk columns held_key held_limit history hmget jobs_among near_first pending_apart prefetch_share promote
-- include requests take_in_order to_pending wake

-- Give a worker up to room + prefetch pending jobs. The first `room` start at once; the others wait on the
-- worker behind short jobs. A job that was prefetched when a worker died is suspect: it only ever starts at
-- once, so that its next death is known to be its own. A job that takes several slots or asks for time starts at once,
-- when the room has its slots.
-- slots: how many the worker has for one job, when nothing else runs there; left_s: how long a job may run there.
-- place, extra: see near_first.lua.
-- Returns
--   leases: { id, attempt, the slots it starts on or 0 when prefetched, config, ... };
--   due: the due time of the next scheduled job, or nil;
--   reserved_slots: how many slots the worker is to let run free for a wide job, or 0;
--   has_other_wide_jobs: whether jobs wait that take several slots or ask for time, and that it cannot take now;
--   is_prefetch_limited: whether narrow jobs wait that are beyond its share, or behind a job that waits for a slot;
--   may_have_shapes: whether it has seen that jobs of several slots, or such that ask for time, may come for it.
-- The last three are nil where nothing was to be taken.
local function lease(worker, request, room, prefetch, slots, left_s, now, paused, most_running, place, extra)
  local field = 'worker:' .. worker
  local due = promote(now)
  local last = redis.call('HGET', REQUESTS, field)
  -- The reply to this very request was lost.
  if last == request then return leases_of(worker, request), due, 0 end
  -- A duplicate that arrives after later calls leases nothing, since nobody reads its reply. What it leased would
  -- stay held, unknown to the worker, for as long as that lives.
  if last and is_older(request, last) then return {}, due, 0 end
  -- Also when nothing is leased: this very call, arriving once more, must not lease then.
  redis.call('HSET', REQUESTS, field, request)

  if paused then return {}, due, 0 end
  local most = left_under_limit(most_running)
  -- At the limit no marker is put back: whatever ends will leave one.
  if most < 1 then return {}, due, 0 end
  local has_shapes = redis.call('ZCARD', WIDE) > 0
  -- Whoever came took the marker: put it back while there is more. Returns whether narrow jobs wait.
  local function wake_for_others()
    local waits = redis.call('ZCARD', PENDING) > 0
    if waits then wake() end
    if has_shapes and pending_apart() > 0 then wake_wide() end
    return waits
  end

  local share = prefetch_share(prefetch, room)
  local is_prefetch_limited = share < prefetch
  if room + share <= 0 then
    local waits = wake_for_others()
    return {}, due, 0, false, is_prefetch_limited and waits
  end
  local ids, apart, starting, reserved_slots, has_other_wide_jobs, waits_for_slot = {}, {}, room, 0, false, false
  local may_have_shapes = false
  local take, begun = near_first(place, extra, now)
  if has_shapes then
    ids, apart, starting, reserved_slots, has_other_wide_jobs, waits_for_slot, may_have_shapes =
      take_in_order(take, worker, room, share, slots, left_s, most, now)
    is_prefetch_limited = is_prefetch_limited or waits_for_slot
  else
    ids = take(PENDING, math.min(room + share, most, 2000))
    if #ids == 0 then return {}, due, 0 end
  end
  local narrow = #ids
  for i, job in ipairs(apart) do ids[narrow + i] = job[1] end

  local configs, past = hmget(CONFIGS, ids), histories(ids)
  local attempts, order, rest, again = {}, {}, {}, {}
  for i, id in ipairs(ids) do
    local h = past[i] and parse_history(past[i])
    attempts[i] = h and h.attempts + 1 or 1
    if i > narrow then
      -- A job of a shape: it is granted below.
    elseif not configs[i] and #jobs_among({ id }) == 0 then
      -- It was not put there by us: nothing comes of it.
    elseif h and h.suspect == 1 then
      if #order < starting then order[#order + 1] = i else again[#again + 1] = id end
    else
      rest[#rest + 1] = i
    end
  end
  to_pending(again)
  for _, i in ipairs(rest) do order[#order + 1] = i end

  local tokens, leases = {}, {}
  local function grant(i, starts)
    tokens[#tokens + 1] = ids[i]
    tokens[#tokens + 1] = attempts[i] .. ' ' .. request .. (starts > 0 and ' 1' or ' 0')
    local at = #leases
    leases[at + 1], leases[at + 2], leases[at + 3], leases[at + 4] = ids[i], attempts[i], starts, configs[i] or ''
  end
  for rank, i in ipairs(order) do grant(i, rank <= starting and 1 or 0) end
  for i, job in ipairs(apart) do grant(narrow + i, job[2]) end
  bulk('HSET', held_key(worker), tokens)
  begun(leases)
  local waits = false
  if #order + #apart < most then waits = wake_for_others() end
  return leases, due, reserved_slots, has_other_wide_jobs, is_prefetch_limited and waits and #order >= starting,
    may_have_shapes
end

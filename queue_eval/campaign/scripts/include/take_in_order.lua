-- include columns parse_shape pending_apart reserve shape_key

-- Take pending jobs in order, where some have a shape, from those that do not take more slots than the worker has
-- and do not ask for more time than it has left. Jobs of other shapes are passed over: what is behind them is taken.
-- A job that does not fit into its room yet stops it: nothing behind overtakes (see reserve).
-- take: see near_first.lua; left_s: how long a job may run on the worker; most: how many jobs it may take.
-- Returns narrow ids; { id, slots } pairs of jobs of a shape, which all start at once; the room that is left for narrow
-- ones; the slots that the worker is to let run free for a wide job, or 0; whether jobs of a shape wait which are not
-- for it now; whether one of these waits for any slot to run free; and whether jobs ever had a shape that takes no more
-- slots than the worker has.
local function take_in_order(take, worker, room, prefetch, slots, left_s, most, now)
  local narrow, apart, fitting, first, slots_of = {}, {}, {}, {}, {}
  local has_unfit_jobs, has_shapes = false, false
  local function look(shape)
    local head = redis.call('ZRANGE', shape_key(shape), 0, 0, 'WITHSCORES')
    first[shape] = head[2]
  end
  local function take_narrow(count)
    if count < 1 then return end
    local ids = take(PENDING, count)
    for _, id in ipairs(ids) do narrow[#narrow + 1] = id end
    most = most - #ids
  end
  -- Those of the fitting shapes that take several slots, or one.
  local function fitting_ones(are_wide)
    local found = {}
    for _, shape in ipairs(fitting) do
      if (slots_of[shape] > 1) == are_wide then found[#found + 1] = shape end
    end
    return found
  end
  for _, shape in ipairs(all_shapes()) do
    look(shape)
    local needed, seconds = parse_shape(shape)
    slots_of[shape] = needed
    has_shapes = has_shapes or needed <= slots
    if needed <= slots and seconds <= left_s then
      fitting[#fitting + 1] = shape
    elseif first[shape] then
      has_unfit_jobs = true
    end
  end

  local starting, has_skipped = room, false
  local function room_for_narrow()
    -- Nobody waits on the worker behind a job of a shape: it may be long.
    return room + (#apart == 0 and prefetch or 0)
  end
  while true do
    local next = nil
    for _, shape in ipairs(fitting) do
      if first[shape] and (not next or tonumber(first[shape]) < tonumber(first[next])) then next = shape end
    end
    if not next then break end
    local before = redis.call('ZCOUNT', PENDING, '-inf', '(' .. first[next])
    local taken = math.min(before, room_for_narrow(), most, 2000)
    take_narrow(taken)
    room = room - taken
    if taken < before or most < 1 then
      redis.call('ZREM', RESERVING, worker)
      return narrow, apart, starting, 0, true, false, has_shapes
    end
    local needed = slots_of[next]
    if needed <= room then
      apart[#apart + 1] = { take(shape_key(next), 1)[1], needed }
      room, starting, most = room - needed, starting - needed, most - 1
      look(next)
    elseif needed == 1 then
      redis.call('ZREM', RESERVING, worker)
      return narrow, apart, starting, 0, true, true, has_shapes
    elseif reserve(worker, fitting_ones(true), now) then
      return narrow, apart, starting, needed, true, false, has_shapes
    else
      has_skipped, fitting = true, fitting_ones(false)
    end
  end
  redis.call('ZREM', RESERVING, worker)
  take_narrow(math.min(room_for_narrow(), most, 2000))
  return narrow, apart, starting, 0, has_skipped or has_unfit_jobs, false, has_shapes
end

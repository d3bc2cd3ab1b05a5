-- include columns reserve wide_key wide_pending

-- Take pending jobs in order, where some are wide, from those that are not wider than all of the worker's slots.
-- A job that does not fit into its room yet stops it: nothing behind overtakes (see reserve).
-- most: how many jobs it may take.
-- Returns narrow ids; wide { id, width } pairs; the room that is left for narrow ones; the slots that the worker is
-- to let run free for a wide job, or 0; and whether other wide jobs wait, which are not for it now.
local function take_in_order(worker, room, prefetch, slots, most, now)
  local narrow, wide, fitting, first = {}, {}, {}, {}
  local has_wider_jobs = false
  local function look(width)
    local head = redis.call('ZRANGE', wide_key(width), 0, 0, 'WITHSCORES')
    first[width] = head[2]
  end
  local function take_narrow(count)
    if count < 1 then return end
    local popped = redis.call('ZPOPMIN', PENDING, count)
    for i = 1, #popped, 2 do narrow[#narrow + 1] = popped[i] end
    most = most - #popped / 2
  end
  for _, width in ipairs(wide_widths()) do
    look(width)
    if (tonumber(width) or math.huge) <= slots then
      fitting[#fitting + 1] = width
    elseif first[width] then
      has_wider_jobs = true
    end
  end

  local starting, has_skipped = room, false
  local function room_for_narrow()
    -- Nobody waits on the worker behind a wide job: it may be long.
    return room + (#wide == 0 and prefetch or 0)
  end
  while true do
    local next = nil
    for _, width in ipairs(fitting) do
      if first[width] and (not next or tonumber(first[width]) < tonumber(first[next])) then next = width end
    end
    if not next then break end
    local before = redis.call('ZCOUNT', PENDING, '-inf', '(' .. first[next])
    local taken = math.min(before, room_for_narrow(), most, 2000)
    take_narrow(taken)
    room = room - taken
    if taken < before or most < 1 then
      redis.call('ZREM', RESERVING, worker)
      return narrow, wide, starting, 0, true
    end
    if tonumber(next) > room then
      if reserve(worker, fitting, now) then return narrow, wide, starting, tonumber(next), true end
      has_skipped = true
      break
    end
    wide[#wide + 1] = { redis.call('ZPOPMIN', wide_key(next), 1)[1], tonumber(next) }
    room, starting, most = room - tonumber(next), starting - tonumber(next), most - 1
    look(next)
  end
  redis.call('ZREM', RESERVING, worker)
  take_narrow(math.min(room_for_narrow(), most, 2000))
  return narrow, wide, starting, 0, has_skipped or has_wider_jobs
end

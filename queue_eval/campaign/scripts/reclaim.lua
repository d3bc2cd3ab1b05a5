-- Take back what a worker holds whose lease has expired (or that is known to be dead), a page at a time.
-- ARGV: uid, grace_ms, page, worker ('' for any that has expired)
--   grace_ms: after the server itself was away, nothing is reclaimed for this long, so that workers which
--   outlived it extend first. It was away when it has another run id, and when nobody has asked for half of
--   this time, or of the shortest lease, though live workers ask far more often: it was frozen or cut off, or the
--   laptop slept. The same holds when its clock was set back: see set_back.
-- Reply: { ids_reclaimed, more (0|1), next_expiry_ms or '' }
-- A job that had begun is charged a loss; one that was only prefetched becomes suspect instead.
-- Repeating it is safe: what was reclaimed is no longer held.
-- include bulk chunk columns count_lease extras facts_since gone held_key history is_gone is_job leave lose now_ms
-- include parse_live server_run to_pending wake_for_waiting write_history
local uid, grace_ms, page, dead = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
if is_gone(uid) then return GONE end
local now = now_ms()
local worker = dead

-- What the clocks of two servers, one of which takes over from the other, may differ by.
local CLOCK_MS = 1000

-- A driver asks every two seconds: half of this can be told from its pauses, half of a shorter lease cannot.
local SHORTEST_MS = 12000

-- The server's clock was set back by so much: leases would last, and delayed jobs wait, for as long in addition.
-- No lease ends later than the longest one from now, and a delay is what was left of it when somebody asked last.
local function set_back(by, longest)
  for at = 0, redis.call('ZCARD', SCHEDULED) - 1, CHUNK / 2 do
    local page, moved = redis.call('ZRANGE', SCHEDULED, at, at + CHUNK / 2 - 1, 'WITHSCORES'), {}
    for i = 1, #page, 2 do
      moved[i], moved[i + 1] = tonumber(page[i + 1]) - by, page[i]
    end
    -- All move by the same, so that none changes its rank.
    bulk('ZADD', SCHEDULED, moved)
  end
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', WORKERS, '(' .. (now + longest), '+inf')) do
    redis.call('ZADD', WORKERS, now + longest, name)
  end
  -- Who still lets slots run free says so again.
  redis.call('DEL', RESERVING)
end

-- Until when nothing is reclaimed, because the server was away. Noted by whoever asks first, whether or not a
-- lease has expired: what expires a moment later needs the grace as well.
local function holds_off_until()
  local known = redis.call('HMGET', META, 'server_run', 'reclaim_seen', 'reclaim_from', 'reclaim_back', 'longest',
    'shortest')
  local run, seen = server_run(), tonumber(known[2])
  local from, back = tonumber(known[3]) or 0, tonumber(known[4]) or now
  local by = (seen or now) - now
  local is_set_back = by > CLOCK_MS
  if is_set_back then set_back(by, math.max(grace_ms, tonumber(known[5]) or 0)) end
  -- Else a driver, whose grace is long, would note what is no absence to it, and hide it from the workers.
  local silence = math.min(grace_ms, math.max(tonumber(known[6]) or grace_ms, SHORTEST_MS)) / 2
  if not seen or is_set_back or -by > silence / 4 then redis.call('HSET', META, 'reclaim_seen', now) end
  if known[1] ~= run or is_set_back or (grace_ms > 0 and -by > silence) then
    from, back = now + grace_ms, now
    redis.call('HSET', META, 'server_run', run, 'reclaim_from', from, 'reclaim_back', back)
  end
  -- Whose own leases are shorter than those of who noted it needs not wait that long.
  return math.min(from, back + grace_ms)
end

if worker == '' then
  local from = holds_off_until()
  local first = redis.call('ZRANGE', WORKERS, 0, 0, 'WITHSCORES')
  if not first[1] then return { {}, 0, '' } end
  if tonumber(first[2]) > now then return { {}, 0, first[2] } end
  if from > now then return { {}, 0, tostring(from) } end
  worker = first[1]
elseif not redis.call('ZSCORE', WORKERS, worker) then
  return { {}, 0, '' }
end

local held = held_key(worker)
local all, cursor = {}, '0'
repeat
  -- One scan may find nothing: earlier pages have emptied where it begins.
  local found = redis.call('HSCAN', held, cursor, 'COUNT', page)
  cursor, all = found[1], found[2]
until #all > 0 or cursor == '0'
local ids = {}
for i = 1, #all, 2 do ids[#ids + 1] = all[i] end
local past = histories(ids)
local meta = redis.call('HMGET', META, 'max_losses', 'extras')
local max_losses, extra = tonumber(meta[1]) or 1, meta[2] and extras()
local points = extra and extra.kept_points(ids) or {}
local printed = extra and extra.values('live', ids) or {}
local entries, again, changed = {}, {}, {}
for i, id in ipairs(ids) do
  -- What is no job was not put there by us: it goes, and nothing comes of it.
  if is_job(id, math.huge) then
    local h = parse_history(past[i])
    local started, request = count_lease(h, all[2 * i])
    if started then
      h.suspect = 0
      -- What it had printed by then is all that anybody will know of it.
      local live = parse_live(printed[i] or '')
      local output = live.attempt == h.attempts and live.text or nil
      local missing = live.total - #live.text
      if output and missing > 0 then output = string.format('\n[... %d bytes left out ...]\n', missing) .. output end
      lose(entries, again, id, h, max_losses,
        { worker = worker, cause = 'lost', points = points[id], ran = facts_since(started, request, now), output = output,
          body = 'worker ' .. worker .. ' died or was cut off while it ran this job' })
    else
      h.suspect = 1
      again[#again + 1] = id
    end
    note_history(changed, id, h)
  end
end
bulk('HSET', INDEX, entries)
bulk('HDEL', held, ids)
write_histories(changed)
to_pending(again)
if extra then
  local failed = {}
  for k = 1, #entries, 2 do failed[#failed + 1] = entries[k] end
  extra.forget_live(ids)
  extra.forget(failed, true)
end
local more = redis.call('HLEN', held) > 0 and 1 or 0
if more == 0 then
  leave(worker)
  more = dead == '' and 1 or 0
end
-- The dead worker may have taken the marker with it.
wake_for_waiting()
return { ids, more, '' }

-- Take back what a worker holds whose lease has expired (or that is known to be dead), a page at a time.
-- ARGV: uid, grace_ms, page, worker ('' for any that has expired)
--   grace_ms: after the server itself was away, nothing is reclaimed for this long, so that workers which
--   outlived it extend first. It was away when it has another run id, and when nobody has asked for half of
--   this time, though live workers ask far more often: it was frozen, or the laptop slept.
-- Reply: { ids_reclaimed, more (0|1), next_expiry_ms or '' }
-- A job that had begun is charged a loss; one that was only prefetched becomes suspect instead.
-- Repeating it is safe: what was reclaimed is no longer held.
local uid, grace_ms, page, dead = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
if gone(uid) then return GONE end
local now = now_ms()
local worker = dead

local function hold_off()
  redis.call('HSET', META, 'server_run', server_run(), 'reclaim_from', now + grace_ms)
  return { {}, 0, tostring(now + grace_ms) }
end

if worker == '' then
  local seen = tonumber(redis.call('HGET', META, 'reclaim_seen')) or now
  if seen == now or now - seen > grace_ms / 8 then redis.call('HSET', META, 'reclaim_seen', now) end
  local first = redis.call('ZRANGE', WORKERS, 0, 0, 'WITHSCORES')
  if not first[1] then return { {}, 0, '' } end
  if tonumber(first[2]) > now then return { {}, 0, first[2] } end
  worker = first[1]
  local known = redis.call('HMGET', META, 'server_run', 'reclaim_from')
  if known[1] ~= server_run() or (grace_ms > 0 and now - seen > grace_ms / 2) then return hold_off() end
  if (tonumber(known[2]) or 0) > now then return { {}, 0, known[2] } end
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
local max_losses = tonumber(redis.call('HGET', META, 'max_losses')) or 1
local entries, again, marked = {}, {}, {}
for i, id in ipairs(ids) do
  local attempt, _, started = parse_held(all[2 * i])
  local h = parse_history(past[i])
  h.attempts = math.max(h.attempts, attempt)
  if not is_job(id, math.huge) then
    -- Not put there by us: it goes, and nothing comes of it.
  elseif started then
    h.suspect = 0
    lose(entries, again, id, h, max_losses,
      { worker = worker, cause = 'lost', body = 'worker ' .. worker .. ' died or was cut off while it ran this job' })
  else
    h.unstarted = h.unstarted + 1
    h.suspect = 1
    again[#again + 1] = id
    marked[#marked + 1] = id
    marked[#marked + 1] = format_history(h)
  end
end
bulk('HSET', INDEX, entries)
bulk('HDEL', held, ids)
bulk('HSET', ATTEMPTS, marked)
to_pending(again)
local more = redis.call('HLEN', held) > 0 and 1 or 0
if more == 0 then
  -- Its last request stays known: a worker that was only cut off may come back, and so may its old calls.
  redis.call('ZREM', WORKERS, worker)
  redis.call('ZREM', RESERVING, worker)
  more = dead == '' and 1 or 0
end
-- The dead worker may have taken the marker with it.
wake_for_waiting()
return { ids, more, '' }

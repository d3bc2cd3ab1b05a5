-- Extend a worker's lease on all it holds; tell it what became of what it believes it holds.
-- ARGV: uid, worker, lease_ms, then per token: id, attempt
-- Reply: { finished, taken, revision, unknown, stops }: ids that are finished (cancelled, or settled by another
--   attempt), and ids that are open but no longer this worker's under that token. A taken job that has
--   begun may go on: its success counts if it comes first. unknown is flat: id, attempt of what this worker
--   holds without having named it: a lease on its way, or one forgotten because the server went back in time.
--   stops: ids of what it named and holds that are asked to stop early.
-- Repeating it is safe: it only moves the expiry forward.
-- include columns extras gone held_key hmget is_job now_ms parse_held
local uid, worker, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local meta = redis.call('HMGET', META, 'uid', 'revision', 'longest', 'shortest', 'extras')
if meta[1] ~= uid then return GONE end
redis.call('ZADD', WORKERS, now_ms() + lease_ms, worker)
-- The longest and the shortest lease of all: see set_back and holds_off_until in reclaim.lua.
if lease_ms > (tonumber(meta[3]) or 0) then redis.call('HSET', META, 'longest', lease_ms) end
if lease_ms < (tonumber(meta[4]) or math.huge) then redis.call('HSET', META, 'shortest', lease_ms) end
-- What it believes it holds; what of that it does not hold any more; what of it is held.
local ids, not_held, still_held = {}, {}, {}
for at = 4, #ARGV, 2 do ids[#ids + 1] = ARGV[at] end
for i, value in ipairs(hmget(held_key(worker), ids)) do
  if not value or parse_held(value) ~= tonumber(ARGV[3 + 2 * i]) then
    not_held[#not_held + 1] = ids[i]
  else
    still_held[#still_held + 1] = ids[i]
  end
end
local finished, taken = {}, {}
for i, entry in ipairs(hmget(INDEX, not_held)) do
  local list = entry and finished or taken
  list[#list + 1] = not_held[i]
end
local unknown = {}
if redis.call('HLEN', held_key(worker)) > #ids - #not_held then
  local named = {}
  for i, id in ipairs(ids) do named[id .. ' ' .. ARGV[3 + 2 * i]] = true end
  local all = redis.call('HGETALL', held_key(worker))
  for i = 1, #all, 2 do
    local attempt = tostring(parse_held(all[i + 1]))
    if not named[all[i] .. ' ' .. attempt] and is_job(all[i], math.huge) then
      unknown[#unknown + 1] = all[i]
      unknown[#unknown + 1] = attempt
    end
  end
end
local stops = {}
for i, asked in ipairs(meta[5] and extras().values('stops', still_held) or {}) do
  if asked then stops[#stops + 1] = still_held[i] end
end
return { finished, taken, tonumber(meta[2]) or 0, unknown, stops }

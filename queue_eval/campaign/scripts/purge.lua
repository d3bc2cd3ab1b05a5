-- Delete a campaign whole. Drivers and workers that still know it are told GONE.
-- ARGV: uid, and perhaps an age (ms): then only a campaign that expires, and was closed so long ago
-- Reply: 1, or 0 for one that is not to go (nothing has changed)
-- Repeating it is safe: the repeat is told GONE.
-- include columns extra_keys gone held_key is_gone now_ms prefix wide_key wide_pending
if is_gone(ARGV[1]) then return GONE end

-- Whether nothing has happened since its driver closed it, at least `age_ms` ago. `last_id` and `revision` show what
-- drivers of an earlier version do to it, too, who know of no `closed`.
local function has_expired(age_ms)
  local m = redis.call('HMGET', META, 'expires', 'closed', 'last_id', 'revision', 'retried')
  local closed_ms, last_id, revision = string.match(m[2] or '', '^(%d+) (%d+) (%d+)$')
  if m[1] ~= '1' or not closed_ms or last_id ~= m[3] or revision ~= m[4] or m[5] then return false end
  if redis.call('HLEN', INDEX) ~= tonumber(last_id) then return false end
  if redis.call('ZCARD', SCHEDULED) + redis.call('ZCARD', PENDING) + wide_pending() > 0 then return false end
  for _, worker in ipairs(redis.call('ZRANGE', WORKERS, 0, -1)) do
    if redis.call('HLEN', held_key(worker)) > 0 then return false end
  end
  return now_ms() - tonumber(closed_ms) >= age_ms
end

if ARGV[2] and not has_expired(tonumber(ARGV[2])) then return 0 end
-- pcall: what is damaged is deleted all the same.
for _, worker in ipairs(redis.pcall('ZRANGE', WORKERS, 0, -1)) do redis.call('UNLINK', held_key(worker)) end
for _, width in ipairs(redis.pcall('ZRANGE', WIDE, 0, -1)) do redis.call('UNLINK', wide_key(width)) end
redis.call('UNLINK', PREFIX .. 'drivers', unpack(KEYS))
redis.call('UNLINK', extra_keys())
return 1

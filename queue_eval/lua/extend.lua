-- Extend a worker's lease on all it holds; tell it what became of what it believes it holds.
-- ARGV: uid, worker, lease_ms, then per token: id, attempt
-- Reply: { finished, taken, revision }: ids that are finished (cancelled, or settled by another attempt),
--   and ids that are open but no longer this worker's under that token. A taken job that has begun may go
--   on: its success counts if it comes first.
-- Repeating it is safe: it only moves the expiry forward.
local uid, worker, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
if gone(uid) then return GONE end
redis.call('ZADD', WORKERS, now_ms() + lease_ms, worker)
local ids, lost = {}, {}
for at = 4, #ARGV, 2 do ids[#ids + 1] = ARGV[at] end
for i, value in ipairs(hmget(held_key(worker), ids)) do
  if not value or parse_held(value) ~= tonumber(ARGV[3 + 2 * i]) then lost[#lost + 1] = ids[i] end
end
local finished, taken = {}, {}
for i, entry in ipairs(hmget(INDEX, lost)) do
  local list = entry and finished or taken
  list[#list + 1] = lost[i]
end
return { finished, taken, tonumber(redis.call('HGET', META, 'revision') or 0) }

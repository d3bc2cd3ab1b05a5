-- Note that a worker has loaded the run function of this revision: whoever cannot is at fault, not the function.
-- And note of what code results are, by their source.
-- ARGV: uid, revision or '', then per source: its hash, what it is made of (JSON)
-- Reply: 1
-- Repeating it is safe: it says the same again.
-- include columns gone is_gone
local MOST = 200
if is_gone(ARGV[1]) then return GONE end
if ARGV[2] ~= '' then redis.call('HSET', META, 'loaded', ARGV[2]) end
for i = 3, #ARGV, 2 do
  local field = 'source:' .. ARGV[i]
  if redis.call('HLEN', META) < MOST and not redis.call('HGET', META, field) then
    redis.call('HSET', META, field, ARGV[i + 1])
  end
end
return 1

-- Note which launch digest a driver's local workers have, and tell what all drivers have noted before.
-- KEYS: the campaign's columns, then the register of drivers
-- ARGV: uid, driver, digest, seconds (what was noted so long ago is forgotten), 1 to note it anew
-- Reply: driver, digest, ... as they stood before this call
-- Repeating it is safe: it notes the same again. Nothing is written when nothing is new.
-- include gone is_gone now_ms
local drivers, own, digest, kept_s = KEYS[#KEYS], ARGV[2], ARGV[3], tonumber(ARGV[4])
if is_gone(ARGV[1]) then return GONE end
local flat = redis.pcall('HGETALL', drivers)
if flat.err then
  -- Damaged: whoever lives notes it anew.
  redis.call('DEL', drivers)
  flat = {}
end
local now, before, is_new = now_ms(), {}, true
for i = 1, #flat, 2 do
  local noted, at = string.match(flat[i + 1], '^(%S+) (%d+)$')
  if noted and now - at <= kept_s * 1000 then
    before[#before + 1], before[#before + 2] = flat[i], noted
    if flat[i] == own and noted == digest then is_new = false end
  else
    redis.call('HDEL', drivers, flat[i])
  end
end
if is_new or ARGV[5] == '1' then
  redis.call('HSET', drivers, own, digest .. ' ' .. now)
  -- pcall: a server that was set up by an earlier build gives its users no right to it.
  redis.pcall('EXPIRE', drivers, kept_s)
end
return before

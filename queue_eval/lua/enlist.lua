-- Note which launch digest a driver's local workers have, and tell what all drivers have noted before.
-- KEYS: the campaign's columns, then the register of drivers
-- ARGV: uid, driver, digest, seconds (after so long without such a call the register is deleted)
-- Reply: driver, digest, ... as they stood before this call
-- Repeating it is safe: it notes the same again.
local drivers = KEYS[#KEYS]
if gone(ARGV[1]) then return GONE end
local before = redis.pcall('HGETALL', drivers)
if before.err then
  -- Damaged: whoever lives notes it anew.
  redis.call('DEL', drivers)
  before = {}
end
redis.call('HSET', drivers, ARGV[2], ARGV[3])
-- pcall: a server that was set up by an earlier build gives its users no right to it.
redis.pcall('EXPIRE', drivers, ARGV[4])
return before

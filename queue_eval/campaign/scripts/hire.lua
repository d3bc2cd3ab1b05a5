-- Take or free the guard under which one driver at a time starts workers for a campaign.
-- KEYS: the campaign's columns, then the guard
-- ARGV: uid, token, ms (how long the guard holds; 0 frees it)
-- Reply: 1 when the guard is held under this token now, else 0.
-- Repeating it is safe: whoever holds the guard takes it again, and frees no one else's.
-- include gone is_gone
local guard, token, ms = KEYS[#KEYS], ARGV[2], tonumber(ARGV[3])
if is_gone(ARGV[1]) then return GONE end
-- A damaged guard is nobody's: the reply of GET is an error then, a table.
local holder = redis.pcall('GET', guard)
-- All take it for as long: one that would hold for longer is from before the server's clock was set back.
-- pcall: a server that was set up by an earlier build gives its users no right to it.
local left = redis.pcall('PTTL', guard)
local is_over = type(left) == 'number' and left > ms
if ms > 0 and (type(holder) ~= 'string' or holder == token or is_over) then
  redis.call('SET', guard, token, 'PX', ms)
  return 1
end
if ms == 0 and holder == token then redis.call('DEL', guard) end
return 0

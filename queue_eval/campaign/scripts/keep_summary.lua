-- Keep what a viewer has read from the result stream, so that the next one goes on from there.
-- ARGV: uid, the newest entry that it has read, what it knows by then
-- Reply: 1 when that is kept, 0 when what is there goes further
-- Repeating it is safe. `extras` is not set for it: workers are to pay nothing because somebody looks. The uid tells
-- it from what an earlier campaign of this name has left.
-- include extra_key gone is_gone mend newest_entry
if is_gone(ARGV[1]) then return GONE end
local key = extra_key('summary')
mend('HGET', key, 'uid')

local function order(entry)
  local ms, number = string.match(entry or '', '^(%d+)-(%d+)$')
  return tonumber(ms or 0), tonumber(number or 0)
end
local function is_behind(one, other)
  local ms, number = order(one)
  local other_ms, other_number = order(other)
  return ms < other_ms or (ms == other_ms and number < other_number)
end

local kept = redis.call('HMGET', key, 'uid', 'cursor')
-- A server that came back without its last second may have less than was read before.
local is_of_now = kept[1] == ARGV[1] and not is_behind(newest_entry(), kept[2])
if is_of_now and is_behind(ARGV[2], kept[2]) then return 0 end
redis.call('HSET', key, 'uid', ARGV[1], 'cursor', ARGV[2], 'kept', ARGV[3])
return 1

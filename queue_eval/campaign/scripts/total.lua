-- Say how many jobs the campaign will have in all, so that viewers can tell how long it may still take.
-- ARGV: uid, the number, or nothing for what is not known
-- Reply: 1
-- Repeating it is safe.
-- include columns gone is_gone
if is_gone(ARGV[1]) then return GONE end
if ARGV[2] == '' then
  redis.call('HDEL', META, 'total')
else
  redis.call('HSET', META, 'total', ARGV[2])
end
return 1

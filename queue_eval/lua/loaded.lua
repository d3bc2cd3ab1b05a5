-- Note that a worker has loaded the run function of this revision: whoever cannot is at fault, not the function.
-- ARGV: uid, revision
-- Reply: 1
-- Repeating it is safe: it says the same again.
if gone(ARGV[1]) then return GONE end
redis.call('HSET', META, 'loaded', ARGV[2])
return 1

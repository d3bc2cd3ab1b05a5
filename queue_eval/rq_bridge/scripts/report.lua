-- Report how an execution ended. Its beat stays as 'done' until the report is claimed, so that it does not
-- count as dead in between.
-- KEYS: replies, beat    ARGV: execution, entry of its beginning, done_ms, keep_s, frame
-- Repeating it is safe: the forwarder ignores a second report of a token.
redis.call('XADD', KEYS[1], '*', 'f', ARGV[5])
redis.call('XDEL', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
local holder = redis.call('GET', KEYS[2])
if not holder or holder == ARGV[1] then redis.call('SET', KEYS[2], 'done', 'PX', ARGV[3]) end
return 1

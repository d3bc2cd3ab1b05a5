-- Remove the traces of an execution that was stopped: it has no report.
-- KEYS: replies, beat    ARGV: execution, entry of its beginning
redis.call('XDEL', KEYS[1], ARGV[2])
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
return 1

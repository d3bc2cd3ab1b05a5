-- Let `stop_requested` of attempts show a word: to those that run by the stream of stops, to the others when they
-- begin.
-- KEYS: stops    ARGV: keep_s, prefix of insides, word, then fields
-- Reply: how many attempts were told
-- Repeating it is safe.
local told = 0
for at = 4, #ARGV do
  local inside = ARGV[2] .. ARGV[at]
  if redis.call('HGET', inside, 'word') ~= 'stop' then
    redis.call('HSET', inside, 'word', ARGV[3])
    redis.call('EXPIRE', inside, ARGV[1])
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', 1000, '*', 'n', ARGV[at], 'w', ARGV[3])
    told = told + 1
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return told

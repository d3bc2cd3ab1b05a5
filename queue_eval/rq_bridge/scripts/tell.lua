-- Add what a running attempt tells of itself.
-- KEYS: told, inside    ARGV: execution, max, keep_s, then per frame: number, frame
-- Reply: how many frames were new
-- Of what it prints only the newest frame stays: while nobody reads, frames of more use must not be trimmed for these.
-- Repeating it is safe: the numbers of an execution only grow.
local field, new = 'told ' .. ARGV[1], 0
local last = tonumber(redis.call('HGET', KEYS[2], field) or 0)
for at = 4, #ARGV, 2 do
  if tonumber(ARGV[at]) > last then
    last, new = tonumber(ARGV[at]), new + 1
    local entry = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'e', ARGV[1], 'n', ARGV[at],
      'f', ARGV[at + 1])
    -- A frame begins with four bytes of length.
    if string.find(ARGV[at + 1], '["printed"', 5, true) == 5 then
      local printed = 'printed ' .. ARGV[1]
      local before = redis.call('HGET', KEYS[2], printed)
      if before then redis.call('XDEL', KEYS[1], before) end
      redis.call('HSET', KEYS[2], printed, entry)
    end
  end
end
redis.call('HSET', KEYS[2], field, last)
redis.call('EXPIRE', KEYS[2], ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return new

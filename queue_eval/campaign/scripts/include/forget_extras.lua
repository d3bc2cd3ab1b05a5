-- include chunk columns

-- Forget what stands in the extra columns of jobs that are over, but for their reports.
-- keeps_checkpoint: so that `retry` goes on from there
local function forget_extras(ids, keeps_checkpoint)
  for first = 1, #ids, CHUNK do
    local last = math.min(first + CHUNK - 1, #ids)
    redis.pcall('HDEL', STOPS, unpack(ids, first, last))
    redis.pcall('ZREM', GIVE_BACKS, unpack(ids, first, last))
    if not keeps_checkpoint then redis.pcall('HDEL', CHECKPOINTS, unpack(ids, first, last)) end
  end
end

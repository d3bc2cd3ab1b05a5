-- include held_key hmget is_job

-- What a worker tells of running attempts: batches of `size` arguments from ARGV[first] on, each of which begins with
-- a job's id and its proof, as in settle.lua. Returns the reply, which has 1 for each batch of an attempt that the
-- worker holds and 0 for each other one; the former batches, { number, at, id, attempt }; and their ids, each once.
local function held_batches(worker, first, size)
  local told_ids = {}
  for at = first, #ARGV, size do told_ids[#told_ids + 1] = ARGV[at] end
  local reply, held, ids, is_known = {}, {}, {}, {}
  for i, token in ipairs(hmget(held_key(worker), told_ids)) do
    local id, at = told_ids[i], first + (i - 1) * size
    local proof = ARGV[at + 1]
    local attempt = string.match(proof, '^(%d+) ')
    reply[i] = 0
    if token and attempt and #attempt < 15 and string.find(token, proof, 1, true) == 1 and is_job(id, math.huge) then
      reply[i] = 1
      held[#held + 1] = { number = i, at = at, id = id, attempt = tonumber(attempt) }
      if not is_known[id] then ids[#ids + 1] = id end
      is_known[id] = true
    end
  end
  return reply, held, ids
end

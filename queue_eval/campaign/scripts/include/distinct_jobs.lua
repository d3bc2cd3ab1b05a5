-- include is_job

-- The ids of jobs among the arguments from `first` on, each once.
local function distinct_jobs(first, last_id)
  local ids, seen = {}, {}
  for i = first, #ARGV do
    if is_job(ARGV[i], last_id) and not seen[ARGV[i]] then
      seen[ARGV[i]] = true
      ids[#ids + 1] = ARGV[i]
    end
  end
  return ids
end

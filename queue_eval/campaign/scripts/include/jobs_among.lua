-- include columns is_job

-- Which of `ids` may be ids of jobs. What else stands in a column was not put there by us, and is left out.
local function jobs_among(ids)
  local last_id = tonumber(redis.call('HGET', META, 'last_id')) or math.huge
  local jobs = {}
  for _, id in ipairs(ids) do
    if is_job(id, last_id) then jobs[#jobs + 1] = id end
  end
  return jobs
end

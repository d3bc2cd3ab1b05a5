-- Whether `text` is the id of a job, spelt as we spell it ("01" would be another member of every column).
local function is_job(text, last_id)
  return string.match(text, '^[1-9]%d*$') and tonumber(text) <= last_id
end

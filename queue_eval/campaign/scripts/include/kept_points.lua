-- include columns extra_values parse_head

-- How many reports are kept of each of these jobs: id -> number, where there are any.
local function kept_points(ids)
  local found = {}
  for i, value in ipairs(extra_values(REPORT_HEADS, ids)) do
    local points = value and parse_head(value).points or 0
    if points > 0 then found[ids[i]] = points end
  end
  return found
end

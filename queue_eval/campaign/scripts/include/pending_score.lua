-- Higher priority first; within one, the order of submission. Exact in a double for |priority| < 2^15
-- and ids below 2^37.
local function pending_score(id, priority)
  return tonumber(id) - priority * 137438953472
end

-- include parse_held

-- Count a lease that ends here into the history of its job. One whose execution had not begun, as far as anybody
-- knows, is not charged. Returns whether it had, and the request that the lease answered.
local function count_lease(h, held_value)
  local attempt, request, started = parse_held(held_value)
  h.attempts = math.max(h.attempts, attempt)
  if not started then h.uncharged = h.uncharged + 1 end
  return started, request
end

-- include prefix

-- The extra columns hold what only some campaigns have: reports, requests to stop early, checkpoints, give-backs, tags,
-- lack of time, checkpoints out of sight, what running attempts print. They are no KEYS, each of which costs time in
-- every call. meta's `extras` says whether this campaign has had any, so that others pay for no call. No move depends on
-- them, but for the order in which jobs are taken (near_first.lua): where one is damaged, it reads as empty.
local function extra_key(column)
  return PREFIX .. column
end

-- include columns

-- The extra columns hold what only some campaigns have: reports, requests to stop early, checkpoints, give-backs.
-- meta's `extras` says whether this campaign has had any, so that others pay for no call. No move depends on them:
-- where one is damaged, it reads as empty.
local function clear_extras()
  redis.call('DEL', REPORTS, REPORT_HEADS, REPORTED, STOPS, CHECKPOINTS, GIVE_BACKS)
end

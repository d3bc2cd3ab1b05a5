-- include columns hmget

-- The history of a job counts its attempts:
--   attempts: leases so far, of which
--   failures, losses: ended in a failure, or in the death of what ran it;
--   uncharged: were given back, or never began;
--   suspect: 1 when a worker died while the job was prefetched, and nobody can tell whether it had begun;
--   releases: were given back for a reason.
local function new_history(attempts, uncharged)
  return { attempts = attempts, failures = 0, losses = 0, uncharged = uncharged, suspect = 0, releases = 0 }
end

-- What stands of each of these jobs, nil where nothing does.
local function histories(ids)
  if redis.call('HLEN', ATTEMPTS) == 0 then return {} end
  return hmget(ATTEMPTS, ids)
end

-- A damaged history reads as none: one bad job must not stop the moves of all others.
local function parse_history(value)
  local attempts, failures, losses, uncharged, suspect, releases =
    string.match(value or '', '^(%d+) (%d+) (%d+) (%d+) (%d) ?(%d*)$')
  -- What is longer is no count, and would be written as no number.
  if not attempts or math.max(#attempts, #failures, #losses, #uncharged, #releases) > 15 then
    return new_history(0, 0)
  end
  return { attempts = tonumber(attempts), failures = tonumber(failures), losses = tonumber(losses),
           uncharged = tonumber(uncharged), suspect = tonumber(suspect), releases = tonumber(releases) or 0 }
end

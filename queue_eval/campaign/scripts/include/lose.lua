-- include finish log_failure

-- One attempt of a job ended by the death of what ran it. After too many of these the job is failed (quarantine),
-- else it goes on the list `again`. `h` is its history, already counting this attempt; the caller writes it.
-- report: as of finish.lua, and `ran`: the facts of the attempt where they are not those of the job.
local function lose(entries, again, id, h, max_losses, report)
  h.losses = h.losses + 1
  log_failure(id, h.attempts, 'lost', report.worker, report.body, report.output, report.ran or report.facts)
  if h.losses >= max_losses then
    finish(entries, id, h.attempts - h.uncharged, h.releases, 'failed', report)
  else
    again[#again + 1] = id
  end
end

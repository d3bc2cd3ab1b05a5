-- include bulk columns

-- Put a history on the list of those that write_histories writes.
local function note_history(changed, id, h)
  changed[#changed + 1] = id
  changed[#changed + 1] = h.attempts .. ' ' .. h.failures .. ' ' .. h.losses .. ' ' .. h.uncharged .. ' ' .. h.suspect
    .. (h.releases > 0 and ' ' .. h.releases or '')
end

local function write_histories(changed)
  bulk('HSET', ATTEMPTS, changed)
end

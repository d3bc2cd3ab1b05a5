-- More blocks than any job has: a head that tells of more is damaged.
local MOST_BLOCKS = 20000

-- What stands in `report_heads`: "attempt covered blocks in_last points dropped looked size".
--   attempt: the newest that has reported; covered: the highest number taken of it;
--   blocks: how many hold the reports; in_last: how many points the last one holds;
--   points, size: how many are kept, and their bytes; dropped: how many are not;
--   looked: the newest attempt that has looked at stop_requested.
-- A damaged head reads as none: one bad job must not stop the moves of all others.
local function parse_head(value)
  local attempt, covered, blocks, in_last, points, dropped, looked, size =
    string.match(value or '', '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  if not attempt or tonumber(blocks) > MOST_BLOCKS
    or math.max(#attempt, #covered, #in_last, #points, #dropped, #looked, #size) > 14 then
    return { attempt = 0, covered = 0, blocks = 0, in_last = 0, points = 0, dropped = 0, looked = 0, size = 0 }
  end
  return { attempt = tonumber(attempt), covered = tonumber(covered), blocks = tonumber(blocks),
           in_last = tonumber(in_last), points = tonumber(points), dropped = tonumber(dropped),
           looked = tonumber(looked), size = tonumber(size) }
end

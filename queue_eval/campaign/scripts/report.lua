-- Take what running attempts have told: reports, checkpoints, and whether they look at stop_requested.
-- ARGV: uid, worker, then per batch: id, proof, base_ms, dropped, looks (0|1), checkpoint, lines
--   proof: as in settle.lua; base_ms: when the attempt began (Unix, by the server's clock);
--   dropped: how many points were dropped since the attempt's batch before, up to the last line;
--   checkpoint: "save place" of the newest, or ''; lines: "number elapsed_ms step values\n" for each point, see
--     model/report.py; the numbers rise, and count what was dropped, too.
-- Reply: of each batch 1; 0 where the worker does not hold the job under this token: nothing of it was taken.
-- Points stand in blocks, to the last of which is appended. Another attempt begins another block. Of too many points
-- every second one is dropped; the first and the last stay.
-- Repeating it is safe, also with more lines behind: no number is taken twice, and no checkpoint goes back.
-- include begin_extras bulk columns extra_key extras gone held_batches mend parse_head
local MOST_POINTS, MOST_BYTES, MOST_LINE_BYTES = 10000, 8 * 1024 * 1024, 4096
local BLOCK_POINTS, BLOCK_BYTES = 100, 16 * 1024
local uid, worker = ARGV[1], ARGV[2]
local meta = redis.call('HMGET', META, 'uid', 'extras')
if meta[1] ~= uid then return GONE end
local FIRST_ARG, ARGS_EACH = 3, 7

local reply, mine, ids = held_batches(worker, FIRST_ARG, ARGS_EACH)
if #ids == 0 then return reply end

begin_extras(meta[2])
local values, jobs = extras().values, {}
for _, id in ipairs(ids) do jobs[id] = {} end
mend('HMGET', extra_key('report_heads'), ids[1])
mend('HMGET', extra_key('reports'), ids[1])
mend('HMGET', extra_key('checkpoints'), ids[1])
mend('XREVRANGE', extra_key('reported'), '+', '-', 'COUNT', 1)
local saved = values('checkpoints', ids)
local last_blocks, places = {}, {}
for i, value in ipairs(values('report_heads', ids)) do
  local job = jobs[ids[i]]
  job.head = parse_head(value or '')
  job.checkpoint = saved[i]
  if job.head.blocks > 0 then
    last_blocks[#last_blocks + 1] = ids[i] .. ':' .. job.head.blocks
    places[#places + 1] = job
  end
end
for k, text in ipairs(values('reports', last_blocks)) do
  local job = places[k]
  local base_ms = string.match(text or '', '^' .. string.format('%d', job.head.attempt) .. ' (%d+)\n')
  -- Of another attempt, or damaged: it is left as it is.
  if base_ms then job.base_ms, job.parts, job.bytes = base_ms, { text }, #text end
end

local written, checkpoints, reporting = {}, {}, {}

local function write_block(id, job)
  if job.is_changed then
    written[#written + 1] = id .. ':' .. job.head.blocks
    written[#written + 1] = table.concat(job.parts)
    job.is_changed = false
  end
end

local function take_line(id, job, line)
  local head = job.head
  if not job.parts or head.in_last >= BLOCK_POINTS or job.bytes + #line > BLOCK_BYTES then
    write_block(id, job)
    head.blocks, head.in_last = head.blocks + 1, 0
    job.parts = { head.attempt .. ' ' .. job.base_ms .. '\n' }
    job.bytes = #job.parts[1]
  end
  job.parts[#job.parts + 1] = line .. '\n'
  job.bytes, job.is_changed = job.bytes + #line + 1, true
  head.in_last, head.points, head.size = head.in_last + 1, head.points + 1, head.size + #line + 1
end

local function take_lines(batch, job)
  local head, lines = job.head, ARGV[batch.at + 6]
  if lines == '' then return end
  if head.attempt ~= batch.attempt then
    write_block(batch.id, job)
    head.attempt, head.covered, job.parts, job.base_ms = batch.attempt, 0, nil, nil
  end
  local base_ms = ARGV[batch.at + 2]
  job.base_ms = job.base_ms or (string.match(base_ms, '^%d+$') and #base_ms < 15 and base_ms) or '0'
  local before, taken, is_repeated = head.covered, 0, false
  for line in string.gmatch(lines, '[^\n]+') do
    local number, elapsed, step = string.match(line, '^(%d+) (%d+) (%-?%d+) {.*}$')
    if number and #line < MOST_LINE_BYTES and #number < 15 and #elapsed < 15 and #step < 18 then
      number = tonumber(number)
      is_repeated = is_repeated or number <= before
      if number > head.covered then
        head.covered, taken = number, taken + 1
        take_line(batch.id, job, line)
      end
    end
  end
  if taken == 0 then return end
  -- The gaps between the numbers show what was dropped. What a batch itself tells might count twice if some of it was
  -- taken before.
  local gaps = head.covered - before - taken
  local dropped = not is_repeated and tonumber(string.match(ARGV[batch.at + 3], '^%d+$')) or 0
  head.dropped = head.dropped + math.max(gaps, math.min(dropped, 1e12))
  reporting[batch.id] = true
end

local function note_checkpoint(batch, job)
  local save = tonumber(string.match(ARGV[batch.at + 5], '^(%d+) [!-~]+$'))
  if not save or save >= 1e14 or #ARGV[batch.at + 5] > 115 then return end
  local attempt, last = string.match(job.checkpoint or '', '^(%d+) (%d+) ')
  attempt, last = tonumber(attempt) or -1, tonumber(last) or -1
  if batch.attempt > attempt or (batch.attempt == attempt and save > last) then
    job.checkpoint = batch.attempt .. ' ' .. ARGV[batch.at + 5]
    checkpoints[#checkpoints + 1] = batch.id
    checkpoints[#checkpoints + 1] = job.checkpoint
    redis.pcall('ZREM', extra_key('give_backs'), batch.id)
    redis.pcall('HDEL', extra_key('time_lacks'), batch.id)
    redis.pcall('HDEL', extra_key('distant'), batch.id)
  end
end

for _, batch in ipairs(mine) do
  local job = jobs[batch.id]
  take_lines(batch, job)
  note_checkpoint(batch, job)
  if ARGV[batch.at + 4] == '1' then job.head.looked = batch.attempt end
end
for _, id in ipairs(ids) do write_block(id, jobs[id]) end
bulk('HSET', extra_key('reports'), written)

-- The points of all blocks, each behind the head line of its block.
local function read_points(id, blocks)
  local names, points = {}, {}
  for n = 1, blocks do names[n] = id .. ':' .. n end
  for _, text in ipairs(values('reports', names)) do
    local first_line = string.match(text or '', '^%d+ %d+\n')
    if first_line then
      for line in string.gmatch(string.sub(text, #first_line + 1), '[^\n]+\n') do
        points[#points + 1] = { first_line, line }
      end
    end
  end
  return points
end

local function thin(id, head)
  local points = read_points(id, head.blocks)
  repeat
    local kept = {}
    head.size = 0
    for i, point in ipairs(points) do
      if i % 2 == 1 or i == #points then
        kept[#kept + 1] = point
        head.size = head.size + #point[2]
      end
    end
    points = kept
  until #points <= MOST_POINTS and (head.size <= MOST_BYTES or #points < 3)
  head.dropped, head.points = head.dropped + math.max(0, head.points - #points), #points

  local blocks, before = {}, head.blocks
  local parts, bytes, first_line = {}, 0, nil
  local function close_block()
    if #parts == 0 then return end
    blocks[#blocks + 1] = id .. ':' .. (#blocks / 2 + 1)
    blocks[#blocks + 1] = table.concat(parts)
  end
  for _, point in ipairs(points) do
    if point[1] ~= first_line or #parts > BLOCK_POINTS or bytes + #point[2] > BLOCK_BYTES then
      close_block()
      first_line = point[1]
      parts, bytes = { first_line }, #first_line
    end
    parts[#parts + 1] = point[2]
    bytes = bytes + #point[2]
  end
  close_block()
  head.blocks, head.in_last = #blocks / 2, math.max(0, #parts - 1)
  bulk('HSET', extra_key('reports'), blocks)
  local gone = {}
  for n = head.blocks + 1, before do gone[#gone + 1] = id .. ':' .. n end
  bulk('HDEL', extra_key('reports'), gone)
end

local heads, hinted = {}, {}
for _, id in ipairs(ids) do
  local head = jobs[id].head
  if head.points > MOST_POINTS or head.size > MOST_BYTES or head.blocks >= MOST_BLOCKS then thin(id, head) end
  heads[#heads + 1] = id
  heads[#heads + 1] = table.concat({ head.attempt, head.covered, head.blocks, head.in_last, head.points, head.dropped,
    head.looked, head.size }, ' ')
  if reporting[id] then hinted[#hinted + 1] = id end
end
bulk('HSET', extra_key('report_heads'), heads)
bulk('HSET', extra_key('checkpoints'), checkpoints)
if #hinted > 0 then
  redis.pcall('XADD', extra_key('reported'), 'MAXLEN', '~', 10000, '*', 'ids', table.concat(hinted, ' '))
end
return reply

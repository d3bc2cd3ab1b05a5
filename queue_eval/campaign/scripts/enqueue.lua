-- Give configs an id and a place: pending, or scheduled when delayed. With reuse, the k-th submission of
-- a config joins the campaign's k-th job with it, when there is one.
-- ARGV: uid, driver, sequence, reuse (0|1), priority, delay_ms, shape ("slots" or "slots@seconds", that
--       each job takes and asks for), tagged (0|1), then per config: config, fingerprint, its occurrence k with reuse,
--       and its tag if tagged
--   tag: JSON that is kept with the job, or '' for none. One that is given with a joined job replaces its tag.
-- Reply: { now_ms, submitted_ms, ids, fence, joined, resting (0|1) }
--   ids: of each config in order; the first id alone when all jobs are new, whose ids follow each other
--   submitted_ms: of all but those that were joined; earlier than now when a first call made them
--   joined: position in `ids`, result-stream entry of a finished job or '', submitted_ms and tag or '' of each,
--     flat
--   fence: newest entry of the result stream, when an unfinished job was joined that may have been finished
--     before and retried, else ''. Of such a job only what comes after counts.
--   resting: no worker looks at the campaign: wake it. Said until that is done.
-- Repeating it is safe: without reuse the driver's last (sequence, first id, time) is remembered; with reuse
-- the repeat joins what the first call created. A call that was given up, sent again and overtaken by later
-- ones adds nothing when it arrives at last (nobody reads its reply).
-- include begin_extras bulk columns extra_key extras gone hmget is_gone is_resting mend new_shape newest_entry now_ms
-- include parse_shape pending_score shape_key stamp_of submitted_ms wake
local uid, driver, sequence, reuse = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local priority, delay_ms = tonumber(ARGV[5]), tonumber(ARGV[6])
local slots, time_s = parse_shape(ARGV[7])
local has_shape = slots > 1 or time_s > 0
local tagged = ARGV[8] == '1'
local FIRST = 9
if is_gone(uid) then return GONE end
local now = now_ms()
local width = (reuse and 3 or 2) + (tagged and 1 or 0)
local count = (#ARGV - FIRST + 1) / width

local ids = {}
local field = 'driver:' .. driver
if not reuse then
  local before, first, at = string.match(redis.call('HGET', REQUESTS, field) or '', '^(%S+) (%d+) ?(%d*)$')
  if before == sequence then
    return { now, tonumber(at) or now, tonumber(first), '', {}, is_resting() }
  end
  if before and tonumber(sequence) < tonumber(before) then return { now, now, ids, '', {}, 0 } end
end

local digests = {}
for i = 1, count do digests[i] = ARGV[FIRST + (i - 1) * width + 1] end
local known = hmget(FINGERPRINTS, digests)

local campaign = redis.call('HMGET', META, 'last_id', 'resting', 'extras')
local last_id, resting = tonumber(campaign[1]), campaign[2] and 1 or 0
local first_id = last_id + 1
local stamp, score = stamp_of(now), delay_ms > 0 and now + delay_ms
local fresh, configs, fingerprints, places, ranks, shaped, tags, joined = {}, {}, {}, {}, {}, {}, {}, {}
for i = 1, count do
  local at = FIRST + (i - 1) * width
  local digest = digests[i]
  -- "first" when one job has this config, "first count" when several do
  local record = fresh[digest] or known[i]
  local first, copies = nil, 0
  if record then
    first, copies = string.match(record, '^(%d+) ?(%d*)$')
    copies = tonumber(copies) or 1
  end
  local occurrence = reuse and tonumber(ARGV[at + 2]) or copies + 1
  if occurrence <= copies then
    ids[i] = occurrence == 1 and first or fresh[digest .. ':' .. occurrence]
      or redis.call('HGET', FINGERPRINTS, digest .. ':' .. occurrence)
    joined[#joined + 1] = i
  else
    last_id = last_id + 1
    local id = tostring(last_id)
    ids[i] = id
    configs[#configs + 1] = id
    configs[#configs + 1] = stamp .. ARGV[at]
    if copies == 0 then
      fresh[digest] = id
    else
      local copy = digest .. ':' .. (copies + 1)
      fresh[digest] = first .. ' ' .. (copies + 1)
      fresh[copy] = id
      fingerprints[#fingerprints + 1] = copy
      fingerprints[#fingerprints + 1] = id
    end
    places[#places + 1] = score or pending_score(last_id, priority)
    places[#places + 1] = id
    if priority ~= 0 then
      ranks[#ranks + 1] = id
      ranks[#ranks + 1] = priority
    end
    if has_shape then shaped[#shaped + 1] = id end
  end
  local tag = tagged and ARGV[at + width - 1] or ''
  if tag ~= '' then
    tags[#tags + 1] = ids[i]
    tags[#tags + 1] = tag
  end
end
for i = 1, count do
  local digest = digests[i]
  if fresh[digest] then
    fingerprints[#fingerprints + 1] = digest
    fingerprints[#fingerprints + 1] = fresh[digest]
    fresh[digest] = nil
  end
end

if #configs > 0 then
  redis.call('HSET', META, 'last_id', last_id)
  bulk('HSET', CONFIGS, configs)
  bulk('HSET', FINGERPRINTS, fingerprints)
  bulk('HSET', PRIORITIES, ranks)
  local place = PENDING
  if has_shape then
    local shape, shapes = new_shape(slots, time_s), {}
    for _, id in ipairs(shaped) do
      shapes[#shapes + 1] = id
      shapes[#shapes + 1] = shape
    end
    bulk('HSET', WIDTHS, shapes)
    place = shape_key(shape)
  end
  bulk('ZADD', delay_ms > 0 and SCHEDULED or place, places)
  -- Also for scheduled ones: a worker must learn when the next is due.
  if delay_ms > 0 or not has_shape then wake() else wake_wide() end
  if not reuse then redis.call('HSET', REQUESTS, field, sequence .. ' ' .. first_id .. ' ' .. now) end
end
if #tags > 0 then
  begin_extras(campaign[3])
  mend('HLEN', extra_key('tags'))
  bulk('HSET', extra_key('tags'), tags)
end
local fence, found = '', {}
if #joined > 0 then
  local wanted, unfinished = {}, false
  for k, i in ipairs(joined) do wanted[k] = ids[i] end
  local made = hmget(CONFIGS, wanted)
  local kept = (campaign[3] or #tags > 0) and extras().values('tags', wanted) or {}
  for k, entry in ipairs(hmget(INDEX, wanted)) do
    unfinished = unfinished or not entry
    found[#found + 1] = joined[k]
    found[#found + 1] = entry or ''
    found[#found + 1] = submitted_ms(made[k]) or now
    found[#found + 1] = kept[k] or ''
  end
  if unfinished and redis.call('HEXISTS', META, 'retried') == 1 then fence = newest_entry() end
end
return { now, now, #joined == 0 and first_id or ids, fence, found, resting }

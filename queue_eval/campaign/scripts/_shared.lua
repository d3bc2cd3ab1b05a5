-- Prefixed to every script. KEYS are the campaign's columns, in the order of keys.py.
--
-- Laws that all scripts keep:
--   A job is in exactly one place: scheduled, pending (by its width), one worker's held, or index.
--   last_id = |scheduled| + |pending| + sum |pending:<width>| + sum |held| + |index|.
--   One entry in the result stream for each id that enters the index.
--   Time is the server's. Nothing is written before all checks have passed.
--   ARGV[1] is the campaign's uid: a caller that knew an earlier campaign of this name is told GONE.

local META, CONFIGS, SCHEDULED, PENDING, WORKERS, ATTEMPTS, PRIORITIES, RESULTS, INDEX,
      FAILED, CANCELLED, FAILURES, OUTPUTS, FINGERPRINTS, REQUESTS, WAKE, _,
      WIDTHS, WIDE, RESERVING, WAKE_WIDE = unpack(KEYS)
local PREFIX = string.sub(META, 1, -5)

local function held_key(worker)
  return PREFIX .. 'held:' .. worker
end

-- unpack holds fewer than 8,000 values; even, so that pairs stay together.
local CHUNK = 4000

local function bulk(command, key, values)
  for first = 1, #values, CHUNK do
    redis.call(command, key, unpack(values, first, math.min(first + CHUNK - 1, #values)))
  end
end

-- Whether `text` is the id of a job, spelt as we spell it ("01" would be another member of every column).
local function is_job(text, last_id)
  return string.match(text, '^[1-9]%d*$') and tonumber(text) <= last_id
end

-- Which of `ids` may be ids of jobs: what else stands in a column was not put there by us, and is left out.
local function jobs_among(ids)
  local last_id = tonumber(redis.call('HGET', META, 'last_id')) or math.huge
  local jobs = {}
  for _, id in ipairs(ids) do
    if is_job(id, last_id) then jobs[#jobs + 1] = id end
  end
  return jobs
end

local function hmget(key, fields)
  if #fields <= CHUNK then
    if #fields == 0 then return {} end
    return redis.call('HMGET', key, unpack(fields))
  end
  local all = {}
  for first = 1, #fields, CHUNK do
    local last = math.min(first + CHUNK - 1, #fields)
    for i, value in ipairs(redis.call('HMGET', key, unpack(fields, first, last))) do
      all[first + i - 1] = value
    end
  end
  return all
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A config stands behind the time of its submission: 8 digits to the base of 36, enough until the year 2059.
local STAMP = 8

local function stamp_of(ms)
  local text = ''
  for _ = 1, STAMP do
    local digit = ms % 36
    text = string.sub('0123456789abcdefghijklmnopqrstuvwxyz', digit + 1, digit + 1) .. text
    ms = (ms - digit) / 36
  end
  return text
end

local function submitted_ms(stamped)
  return tonumber(string.sub(stamped or '', 1, STAMP), 36)
end

local function config_of(stamped)
  return string.sub(stamped or '', STAMP + 1)
end

local function gone(uid)
  return redis.call('HGET', META, 'uid') ~= uid
end

local GONE = 'GONE'

local function newest_entry()
  local newest = redis.call('XREVRANGE', RESULTS, '+', '-', 'COUNT', 1)
  return newest[1] and newest[1][1] or '0-0'
end

-- A campaign at this moment: { status, uid, created_ms, last_id, finished, tail, now_ms, function, method,
-- source, options, schema, retried }; nil when there is none.
--   tail: the newest entry of the result stream; what finishes from now on comes after it.
--   retried: how many finished jobs were made open again by the user, ever.
local function standing(status)
  local m = redis.call('HMGET', META, 'uid', 'created_ms', 'last_id', 'function', 'method', 'source',
    'options', 'schema', 'retried')
  if not m[1] then return nil end
  -- '' for a damaged number: a reply ends at the first nil.
  return { status, m[1], tonumber(m[2]) or '', tonumber(m[3]) or '', redis.call('HLEN', INDEX), newest_entry(),
           now_ms(), m[4] or '', m[5] or '', m[6] or '', m[7] or '', m[8] or '', tonumber(m[9] or 0) or '' }
end

-- Whether no worker looks at the campaign (0|1).
local function is_resting()
  return redis.call('HEXISTS', META, 'resting')
end

-- Which life of the server this is: another one after each restart or failover.
local function server_run()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
end

-- Damaged values are read as if nothing were known: one bad job must not stop the moves of all others.

-- held: "attempt request started"
local function parse_held(value)
  local attempt, request, started = string.match(value, '^(%d+) (%S+) (%d)$')
  return tonumber(attempt) or 0, request, started ~= '0'
end

-- attempts: leases so far, of which failed, lost, not charged (given back, or never started); whether a worker
-- died while the job was prefetched, when nobody can tell if it had begun; and how many leases were given back
-- for a reason, where any was.
local function parse_history(value)
  local attempts, failures, losses, uncharged, suspect, releases =
    string.match(value or '', '^(%d+) (%d+) (%d+) (%d+) (%d) ?(%d*)$')
  -- What is longer is no count, and would be written as no number.
  if not attempts or math.max(#attempts, #failures, #losses, #uncharged, #releases) > 15 then
    return { attempts = 0, failures = 0, losses = 0, uncharged = 0, suspect = 0, releases = 0 }
  end
  return { attempts = tonumber(attempts), failures = tonumber(failures), losses = tonumber(losses),
           uncharged = tonumber(uncharged), suspect = tonumber(suspect), releases = tonumber(releases) or 0 }
end

local function format_history(h)
  return h.attempts .. ' ' .. h.failures .. ' ' .. h.losses .. ' ' .. h.uncharged .. ' ' .. h.suspect
    .. (h.releases > 0 and ' ' .. h.releases or '')
end

local function histories(ids)
  if redis.call('HLEN', ATTEMPTS) == 0 then return {} end
  return hmget(ATTEMPTS, ids)
end

-- Higher priority first; within one, the order of submission. Exact in a double for |priority| < 2^15
-- and ids below 2^37.
local function pending_score(id, priority)
  return tonumber(id) - priority * 137438953472
end

local function wake()
  redis.call('ZADD', WAKE, 0, 'work')
end

-- Jobs that take several slots are wide: they wait apart, by their width, so that a worker never sees those
-- that it has not the slots for, and campaigns without any pay nothing.

local function wide_key(width)
  return PREFIX .. 'pending:' .. width
end

-- The widths that wide jobs of this campaign have, or once had, the smallest first.
local function wide_widths()
  return redis.call('ZRANGE', WIDE, 0, -1)
end

local function widths_of(ids)
  if redis.call('ZCARD', WIDE) == 0 then return {} end
  return hmget(WIDTHS, ids)
end

local function wake_wide()
  redis.call('ZADD', WAKE_WIDE, 0, 'work')
end

local function wide_pending()
  local count = 0
  for _, width in ipairs(wide_widths()) do count = count + redis.call('ZCARD', wide_key(width)) end
  return count
end

-- Put the markers back, for whoever took one may not have used it.
local function wake_for_waiting()
  if redis.call('ZCARD', PENDING) + redis.call('ZCARD', SCHEDULED) > 0 then wake() end
  if wide_pending() > 0 then wake_wide() end
end

local function to_pending(ids)
  if #ids == 0 then return end
  local priorities = redis.call('HLEN', PRIORITIES) > 0 and hmget(PRIORITIES, ids) or {}
  local widths, members, wide = widths_of(ids), {}, {}
  for i, id in ipairs(ids) do
    local list = members
    if widths[i] then
      wide[widths[i]] = wide[widths[i]] or {}
      list = wide[widths[i]]
    end
    list[#list + 1] = pending_score(id, tonumber(priorities[i] or 0))
    list[#list + 1] = id
  end
  if #members > 0 then
    bulk('ZADD', PENDING, members)
    wake()
  end
  for width, list in pairs(wide) do
    bulk('ZADD', wide_key(width), list)
    wake_wide()
  end
end

-- Take jobs away from where they wait.
local function withdraw(ids)
  bulk('ZREM', PENDING, ids)
  bulk('ZREM', SCHEDULED, ids)
  for i, width in pairs(widths_of(ids)) do
    if width then redis.call('ZREM', wide_key(width), ids[i]) end
  end
end

-- How many jobs may be held beside those that are: math.huge without a limit on the campaign.
local function may_be_held(most_running)
  local most = tonumber(most_running or '')
  if not most then return math.huge end
  for _, worker in ipairs(redis.call('ZRANGE', WORKERS, 0, -1)) do
    most = most - redis.call('HLEN', held_key(worker))
  end
  return most
end

-- Some job is held no more. Where a limit kept jobs waiting no marker was left: whoever is idle may ask now.
local function wake_if_limited()
  if (redis.call('HGET', META, 'most_running') or '') ~= '' then wake_for_waiting() end
end

-- Move what is due to pending, a page at a time. Returns the due time of the next scheduled job, or nil.
local function promote(now)
  if redis.call('ZCARD', SCHEDULED) == 0 then return nil end
  local due = redis.call('ZRANGEBYSCORE', SCHEDULED, '-inf', now, 'LIMIT', 0, 1000)
  if #due > 0 then
    bulk('ZREM', SCHEDULED, due)
    to_pending(jobs_among(due))
  end
  local first = redis.call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')
  return first[2] and tonumber(first[2])
end

-- Append one terminal outcome to the result stream; collect what the index needs into `entries`.
-- `executions` counts attempts whose execution began and was charged; `releases` those that were given back.
-- outcome: { facts, worker, cause, body, output }
--   facts: "run_ms age_ms source", as the worker tells them
-- The state is told by its first letter: s, f or c.
local function finish(entries, id, executions, releases, state, outcome)
  local text = id .. ' ' .. string.sub(state, 1, 1) .. ' ' .. executions .. ' ' .. (outcome.facts or ' 0 ') .. ' '
    .. (outcome.worker or '') .. ' ' .. (outcome.cause or '')
  local entry
  if releases > 0 then
    entry = redis.call('XADD', RESULTS, '*', 'outcome', text, 'body', outcome.body or '', 'releases', releases)
  else
    entry = redis.call('XADD', RESULTS, '*', 'outcome', text, 'body', outcome.body or '')
  end
  entries[#entries + 1] = id
  entries[#entries + 1] = entry
  if outcome.output and outcome.output ~= '' then redis.call('HSET', OUTPUTS, id, outcome.output) end
  if state == 'failed' then redis.call('SADD', FAILED, id) end
  if state == 'cancelled' then redis.call('SADD', CANCELLED, id) end
end

local function log_failure(id, attempt, cause, worker, body, output)
  redis.call('XADD', FAILURES, 'MAXLEN', '~', 10000, '*', 'job', id, 'attempt', attempt, 'cause', cause,
    'worker', worker, 'body', body, 'output', output or '')
end

-- Which worker holds each of `ids`: id -> { worker, held value }. For rare moves: it asks every worker, and of
-- each worker whichever is shorter, for these ids or for all that it holds.
local function holders(ids)
  local found, wanted = {}, {}
  for _, id in ipairs(ids) do wanted[id] = true end
  for _, worker in ipairs(redis.call('ZRANGE', WORKERS, 0, -1)) do
    local held = held_key(worker)
    if redis.call('HLEN', held) < #ids then
      local all = redis.call('HGETALL', held)
      for i = 1, #all, 2 do
        if wanted[all[i]] then found[all[i]] = { worker, all[i + 1] } end
      end
    else
      for i, value in ipairs(hmget(held, ids)) do
        if value then found[ids[i]] = { worker, value } end
      end
    end
  end
  return found
end

-- One attempt of a job ended by the death of what ran it: pending again, or quarantined.
-- `h` is its history, already counting this attempt.
local function lose(entries, again, id, h, max_losses, outcome)
  h.losses = h.losses + 1
  log_failure(id, h.attempts, 'lost', outcome.worker, outcome.body, outcome.output)
  if h.losses >= max_losses then
    finish(entries, id, h.attempts - h.uncharged, h.releases, 'failed', outcome)
  else
    again[#again + 1] = id
  end
  redis.call('HSET', ATTEMPTS, id, format_history(h))
end

-- request: "<life><number>", where the number grows with each new call of one life of a worker. It is about the
-- time of the call (server, ms), but for workers of earlier versions; cancel.lua takes it for the time of the lease.
local function is_older(request, last)
  local life, number = string.match(request, '^(.-)(%d+)$')
  local last_life, last_number = string.match(last, '^(.-)(%d+)$')
  return life ~= nil and life == last_life and tonumber(number) < tonumber(last_number)
end

-- The first reservations of a wide job keep others from reserving, too; for so long. A worker that frees no
-- slots meanwhile may hold on to its own, but another one may be faster.
local RESERVED_MS = 2000

-- Whether a worker is to let its slots run free for a wide job, rather than take the narrow jobs behind it: unless
-- as many others as there are such jobs do it already.
local function reserve(worker, fitting, now)
  local narrow = redis.call('ZRANGE', PENDING, 0, 0, 'WITHSCORES')
  local before = narrow[2] and '(' .. narrow[2] or '+inf'
  local ahead = 0
  for _, width in ipairs(fitting) do ahead = ahead + redis.call('ZCOUNT', wide_key(width), '-inf', before) end
  local since = tonumber(redis.call('ZSCORE', RESERVING, worker) or now)
  local others = redis.call('ZCOUNT', RESERVING, now - RESERVED_MS, since)
  if redis.call('ZSCORE', RESERVING, worker) and since >= now - RESERVED_MS then others = others - 1 end
  if others >= ahead then return false end
  redis.call('ZADD', RESERVING, 'NX', now, worker)
  return true
end

-- Take pending jobs in order, where some are wide, from those that are not wider than all of the worker's slots.
-- What does not fit into its room yet stops it: nothing behind overtakes (see reserve).
-- Returns narrow ids, wide { id, width } pairs, the room that is left for narrow ones, the width that the worker
-- is to reserve for or 0, and whether wide jobs wait that are not for it now (0|1).
local function take_in_order(worker, room, prefetch, slots, most, now)
  local narrow, wide, fitting, first = {}, {}, {}, {}
  local aside = 0
  local function look(width)
    local head = redis.call('ZRANGE', wide_key(width), 0, 0, 'WITHSCORES')
    first[width] = head[2]
  end
  local function take_narrow(count)
    if count < 1 then return end
    local popped = redis.call('ZPOPMIN', PENDING, count)
    for i = 1, #popped, 2 do narrow[#narrow + 1] = popped[i] end
    most = most - #popped / 2
  end
  for _, width in ipairs(wide_widths()) do
    look(width)
    if (tonumber(width) or math.huge) <= slots then fitting[#fitting + 1] = width elseif first[width] then aside = 1 end
  end

  local starting, skipped = room, false
  local function room_for_narrow()
    -- Nobody waits on the worker behind a wide job: it may be long.
    return room + (#wide == 0 and prefetch or 0)
  end
  while true do
    local next = nil
    for _, width in ipairs(fitting) do
      if first[width] and (not next or tonumber(first[width]) < tonumber(first[next])) then next = width end
    end
    if not next then break end
    local before = redis.call('ZCOUNT', PENDING, '-inf', '(' .. first[next])
    local taken = math.min(before, room_for_narrow(), most, 2000)
    take_narrow(taken)
    room = room - taken
    if taken < before or most < 1 then
      redis.call('ZREM', RESERVING, worker)
      return narrow, wide, starting, 0, 1
    end
    if tonumber(next) > room then
      if reserve(worker, fitting, now) then return narrow, wide, starting, tonumber(next), 1 end
      skipped = true
      break
    end
    wide[#wide + 1] = { redis.call('ZPOPMIN', wide_key(next), 1)[1], tonumber(next) }
    room, starting, most = room - tonumber(next), starting - tonumber(next), most - 1
    look(next)
  end
  redis.call('ZREM', RESERVING, worker)
  take_narrow(math.min(room_for_narrow(), most, 2000))
  return narrow, wide, starting, 0, skipped and 1 or aside
end

-- Give a worker up to room + prefetch pending jobs. The first `room` start at once; the others wait on the
-- worker behind short jobs. A job that was prefetched when a worker died is suspect: it only ever starts at
-- once, so that its next death is known to be its own. A wide job starts at once, when the room has its width.
-- slots: how many the worker has for one job, when nothing else runs there.
-- In advance a worker is given no more than its share of what waits, so that nobody is idle for it.
-- Returns { id, attempt, the slots it starts on or 0 when prefetched, config, ... }; the due time of the next
-- scheduled job or nil; the width of the wide job that the worker is to let slots run free for, or 0;
-- whether wide jobs wait that it cannot take now (0|1); and whether narrow ones wait that are beyond its share.
local function lease(worker, request, room, prefetch, slots, now, paused, most_running)
  local held = held_key(worker)
  local field = 'worker:' .. worker
  local due = promote(now)
  local last = redis.call('HGET', REQUESTS, field)
  if last == request then
    -- The reply to this very request was lost: give the same leases again.
    local leased, ids = {}, {}
    local all = redis.call('HGETALL', held)
    for i = 1, #all, 2 do
      local attempt, made_by, started = parse_held(all[i + 1])
      if made_by == request then
        ids[#ids + 1] = all[i]
        leased[#leased + 1] = { all[i], attempt, started and 1 or 0 }
      end
    end
    local reply, widths = {}, widths_of(ids)
    for i, config in ipairs(hmget(CONFIGS, ids)) do
      local l = leased[i]
      for _, value in ipairs({ l[1], l[2], tonumber(widths[i] or l[3]), config or '' }) do
        reply[#reply + 1] = value
      end
    end
    return reply, due, 0, 0
  end
  -- A call that was given up, sent again and overtaken by later ones, and arrives only now: nobody reads its
  -- reply, and what it leased would stay held, unknown to the worker, for as long as that lives.
  if last and is_older(request, last) then return {}, due, 0, 0 end
  -- Also when nothing is leased: this very call, arriving once more, must not lease then.
  redis.call('HSET', REQUESTS, field, request)

  if paused then return {}, due, 0, 0 end
  local most = may_be_held(most_running)
  -- No marker: whatever ends will leave one.
  if most < 1 then return {}, due, 0, 0 end
  local has_wide = redis.call('ZCARD', WIDE) > 0
  local share = prefetch
  if prefetch > 0 then
    local workers = redis.call('ZCARD', WORKERS)
    if workers > 1 then
      local waiting = redis.call('ZCARD', PENDING) - room
      share = math.max(0, math.min(prefetch, math.floor(waiting / workers)))
    end
  end
  local is_held_back = share < prefetch
  prefetch = share
  if room + prefetch <= 0 then
    -- A full worker may have taken the marker from the idle ones.
    local waits = redis.call('ZCARD', PENDING) > 0
    if waits then wake() end
    if has_wide and wide_pending() > 0 then wake_wide() end
    return {}, due, 0, 0, is_held_back and waits
  end
  local ids, wide, starting, reserved, aside = {}, {}, room, 0, 0
  if has_wide then
    ids, wide, starting, reserved, aside = take_in_order(worker, room, prefetch, slots, most, now)
  else
    local popped = redis.call('ZPOPMIN', PENDING, math.min(room + prefetch, most, 2000))
    for i = 1, #popped, 2 do ids[#ids + 1] = popped[i] end
    if #ids == 0 then return {}, due, 0, 0 end
  end
  local narrow = #ids
  for i, job in ipairs(wide) do ids[narrow + i] = job[1] end

  local configs, before = hmget(CONFIGS, ids), histories(ids)
  local attempts, order, rest, again = {}, {}, {}, {}
  for i, id in ipairs(ids) do
    local h = before[i] and parse_history(before[i])
    attempts[i] = h and h.attempts + 1 or 1
    if i > narrow then
      -- A wide job: see below.
    elseif not configs[i] and #jobs_among({ id }) == 0 then
      -- Not put there by us: nothing comes of it.
    elseif h and h.suspect == 1 then
      if #order < starting then order[#order + 1] = i else again[#again + 1] = id end
    else
      rest[#rest + 1] = i
    end
  end
  to_pending(again)
  for _, i in ipairs(rest) do order[#order + 1] = i end

  local tokens, reply = {}, {}
  local function grant(i, starts)
    tokens[#tokens + 1] = ids[i]
    tokens[#tokens + 1] = attempts[i] .. ' ' .. request .. (starts > 0 and ' 1' or ' 0')
    local at = #reply
    reply[at + 1], reply[at + 2], reply[at + 3], reply[at + 4] = ids[i], attempts[i], starts, configs[i] or ''
  end
  for rank, i in ipairs(order) do grant(i, rank <= starting and 1 or 0) end
  for i, job in ipairs(wide) do grant(narrow + i, job[2]) end
  bulk('HSET', held, tokens)
  -- The marker was taken by whoever came for these: put it back while there is more.
  local waits = false
  if #order + #wide < most then
    waits = redis.call('ZCARD', PENDING) > 0
    if waits then wake() end
    if has_wide and wide_pending() > 0 then wake_wide() end
  end
  return reply, due, reserved, aside, is_held_back and waits and #order >= starting
end

-- Take the newest part of what running attempts print.
-- ARGV: uid, worker, then per attempt: id, proof, total, text
--   proof: as in settle.lua; total: how many bytes the attempt has printed by now; text: the last of these, as many as
--     are new to the worker's last call, or fewer when they are many
-- Reply: of each attempt 1; 0 where the worker does not hold the job under this token: nothing of it was taken.
-- The newest MOST_BYTES of an attempt are kept. What continues the kept part is appended to it; where something is
-- missing between them, or another attempt prints, it begins anew.
-- Repeating it is safe: nothing up to the known total is taken twice.
-- include begin_extras bulk columns extra_key extras gone held_key hmget is_job mend parse_live
local MOST_BYTES = 16 * 1024
local uid, worker = ARGV[1], ARGV[2]
local meta = redis.call('HMGET', META, 'uid', 'extras')
if meta[1] ~= uid then return GONE end
local FIRST_ARG, ARGS_EACH = 3, 4

local told_ids, reply, mine, ids, is_known = {}, {}, {}, {}, {}
for at = FIRST_ARG, #ARGV, ARGS_EACH do told_ids[#told_ids + 1] = ARGV[at] end
for i, token in ipairs(hmget(held_key(worker), told_ids)) do
  local id, at = told_ids[i], FIRST_ARG + (i - 1) * ARGS_EACH
  local attempt, total = string.match(ARGV[at + 1], '^(%d+) '), string.match(ARGV[at + 2], '^%d+$')
  reply[i] = 0
  local is_valid = attempt and total and #attempt < 15 and #total < 15 and #ARGV[at + 3] <= tonumber(total)
  if token and is_valid
    and string.find(token, ARGV[at + 1], 1, true) == 1 and is_job(id, math.huge) then
    reply[i] = 1
    mine[#mine + 1] = { id = id, attempt = attempt, total = tonumber(total), text = ARGV[at + 3] }
    if not is_known[id] then ids[#ids + 1] = id end
    is_known[id] = true
  end
end
if #ids == 0 then return reply end

begin_extras(meta[2])
mend('HMGET', extra_key('live'), ids[1])
mend('HMGET', extra_key('live_heads'), ids[1])
local known = {}
for i, value in ipairs(extras().values('live', ids)) do
  known[ids[i]] = parse_live(value or '')
end
local texts, heads = {}, {}
for _, new in ipairs(mine) do
  local old = known[new.id]
  local text = new.text
  local missing = new.total - #text - old.total
  if old.attempt ~= new.attempt or new.total > old.total then
    if old.attempt == new.attempt and missing <= 0 then text = old.text .. string.sub(text, 1 - missing) end
    new.text = string.sub(text, -MOST_BYTES)
    known[new.id] = new
    local head = new.attempt .. ' ' .. string.format('%d', new.total)
    texts[#texts + 1] = new.id
    texts[#texts + 1] = head .. '\n' .. new.text
    heads[#heads + 1] = new.id
    heads[#heads + 1] = head
  end
end
bulk('HSET', extra_key('live'), texts)
bulk('HSET', extra_key('live_heads'), heads)
return reply

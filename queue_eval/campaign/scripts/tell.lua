-- Take the newest part of what running attempts print.
-- ARGV: uid, worker, then per attempt: id, proof, total, text
--   proof: as in settle.lua; total: how many bytes the attempt has printed by now; text: the last of these, as many as
--     are new to the worker's last call, or fewer when they are many
-- Reply: of each attempt 1; 0 where the worker does not hold the job under this token: nothing of it was taken.
-- The newest MOST_BYTES of an attempt are kept. What continues the kept part is appended to it; where something is
-- missing between them, or another attempt prints, it begins anew.
-- Repeating it is safe: nothing up to the known total is taken twice.
-- include begin_extras bulk columns extra_key extras gone held_batches mend parse_live
local MOST_BYTES = 16 * 1024
local uid, worker = ARGV[1], ARGV[2]
local meta = redis.call('HMGET', META, 'uid', 'extras')
if meta[1] ~= uid then return GONE end
local FIRST_ARG, ARGS_EACH = 3, 4

local reply, mine, ids = held_batches(worker, FIRST_ARG, ARGS_EACH)
if #ids == 0 then return reply end

begin_extras(meta[2])
mend('HMGET', extra_key('live'), ids[1])
mend('HMGET', extra_key('live_heads'), ids[1])
local known = {}
for i, value in ipairs(extras().values('live', ids)) do
  known[ids[i]] = parse_live(value or '')
end
local texts, heads = {}, {}
for _, batch in ipairs(mine) do
  local id, attempt, printed, text = batch.id, batch.attempt, ARGV[batch.at + 2], ARGV[batch.at + 3]
  local total = #printed < 15 and tonumber(string.match(printed, '^%d+$') or '')
  local old = known[id]
  if not total or #text > total then
    reply[batch.number] = 0
  elseif old.attempt ~= attempt or total > old.total then
    local missing = total - #text - old.total
    if old.attempt == attempt and missing <= 0 then text = old.text .. string.sub(text, 1 - missing) end
    text = string.sub(text, -MOST_BYTES)
    known[id] = { attempt = attempt, total = total, text = text }
    local head = string.format('%d %d', attempt, total)
    texts[#texts + 1] = id
    texts[#texts + 1] = head .. '\n' .. text
    heads[#heads + 1] = id
    heads[#heads + 1] = head
  end
end
bulk('HSET', extra_key('live'), texts)
bulk('HSET', extra_key('live_heads'), heads)
return reply

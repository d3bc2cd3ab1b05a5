-- Begin an attempt, unless it is not wanted any more or another execution runs it.
-- KEYS: flight, beat, replies, setup, inside
-- ARGV: field ("job-attempt"), execution, beat_ms, keep_s, frame "begun", frame "unfit"
-- Reply: { 'begun', entry, setup, config, word for `stop_requested` or '' } or { 'unwanted' } or { 'taken' } or { 'unfit' }
-- Repeating it is safe: the same execution begins again, with one more entry.
local config = redis.call('HGET', KEYS[1], ARGV[1])
if not config then return { 'unwanted' } end
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[2] then return { 'taken' } end
local setup = redis.call('GET', KEYS[4])
local entry = redis.call('XADD', KEYS[3], '*', 'f', setup and ARGV[5] or ARGV[6])
redis.call('EXPIRE', KEYS[3], ARGV[4])
if not setup then return { 'unfit' } end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return { 'begun', entry, setup, config, redis.call('HGET', KEYS[5], 'word') or '' }

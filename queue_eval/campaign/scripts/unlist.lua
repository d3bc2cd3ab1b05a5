-- Take a campaign that is gone off the register. One of the same name that was made since is left there.
-- KEYS[1]: the register, alone. ARGV: campaign, its time of creation as the register has it
-- Reply: 1 when it was taken off
-- Repeating it is safe: the repeat finds nothing, or a later one.
local listed = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not listed or tonumber(listed) ~= tonumber(ARGV[2]) then return 0 end
return redis.call('ZREM', KEYS[1], ARGV[1])

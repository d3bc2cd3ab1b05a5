-- include clear_extras columns

-- Before anything is written to the extra columns: nothing of an earlier campaign of this name is in them. A purge by
-- an earlier version leaves them behind.
local function begin_extras(has_extras)
  if has_extras then return end
  clear_extras()
  redis.call('HSET', META, 'extras', 1)
end

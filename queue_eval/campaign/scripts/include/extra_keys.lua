-- include extra_key

-- All extra columns, in the order of keys.py.
local function extra_keys()
  return extra_key('reports'), extra_key('report_heads'), extra_key('reported'), extra_key('stops'),
         extra_key('checkpoints'), extra_key('give_backs'), extra_key('tags'), extra_key('time_lacks'),
         extra_key('distant'), extra_key('summary'), extra_key('live'), extra_key('live_heads')
end

-- include columns

-- The names of all keys of the campaign begin with this: the name of META does, too, and ends with "meta".
local PREFIX = string.sub(META, 1, -5)

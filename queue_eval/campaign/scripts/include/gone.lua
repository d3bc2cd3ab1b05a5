-- The reply to a caller that knew an earlier campaign of this name.
local GONE = 'GONE'

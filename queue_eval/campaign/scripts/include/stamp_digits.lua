-- A config stands behind the time of its submission: 8 digits to the base of 36, enough until the year 2059.
local STAMP_DIGITS = 8

-- include stamp_digits

local function submitted_ms(stamped)
  return tonumber(string.sub(stamped or '', 1, STAMP_DIGITS), 36)
end

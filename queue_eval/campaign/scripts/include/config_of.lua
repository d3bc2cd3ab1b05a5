-- include stamp_digits

local function config_of(stamped)
  return string.sub(stamped or '', STAMP_DIGITS + 1)
end

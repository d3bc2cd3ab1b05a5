-- include stamp_digits

local function stamp_of(ms)
  local text = ''
  for _ = 1, STAMP_DIGITS do
    local digit = ms % 36
    text = string.sub('0123456789abcdefghijklmnopqrstuvwxyz', digit + 1, digit + 1) .. text
    ms = (ms - digit) / 36
  end
  return text
end

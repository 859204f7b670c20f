-- UTC date of a time in ms (days since 1970 to year, month, day; the year begins in March while counting).
local function date_of(ms)
  local days = math.floor(ms / 86400000) + 719468
  local era = math.floor(days / 146097)
  local day_of_era = days - era * 146097
  local year_of_era = math.floor((day_of_era - math.floor(day_of_era / 1460) + math.floor(day_of_era / 36524)
    - math.floor(day_of_era / 146096)) / 365)
  local day_of_year = day_of_era - (365 * year_of_era + math.floor(year_of_era / 4) - math.floor(year_of_era / 100))
  local march = math.floor((5 * day_of_year + 2) / 153)
  local month = march < 10 and march + 3 or march - 9
  local year = year_of_era + era * 400 + (month <= 2 and 1 or 0)
  return year, month, day_of_year - math.floor((153 * march + 2) / 5) + 1
end

local function day_of(ms)
  return string.format('%04d%02d%02d', date_of(ms))
end

local function iso(ms)
  local year, month, day = date_of(ms)
  local rest = ms % 86400000
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day, math.floor(rest / 3600000),
    math.floor(rest / 60000) % 60, math.floor(rest / 1000) % 60, rest % 1000)
end

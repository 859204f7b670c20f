-- Arguments are checked before the first write, so that a refused call leaves nothing half-written.
-- Below 1e14 Lua prints a whole number with all its digits; times in ms stay below that for three millennia.
local function whole(value, name)
  local number = tonumber(value)
  if not number or number < 0 or number % 1 ~= 0 or number >= 1e14 then error('BADARG ' .. name) end
  return number
end

-- Ids go into key names, job ids and JSON text: only letters, digits, '_' and '-'.
local function identifier(value)
  if type(value) ~= 'string' or #value > 64 or not string.find(value, '^[%w_-]+$') then error('BADARG id') end
  return value
end

local function one_of(value, choices, name)
  if not choices[value] then error('BADARG ' .. name) end
  return value
end

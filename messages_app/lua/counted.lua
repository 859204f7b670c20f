-- Counters of messages by type since the beginning: the carried sums, and what the accounts since then add.
-- KEYS  1 prefix of every key
-- RETURNS  for each type: type, accepted, done, dead, reopened after done, reopened after dead
-- RACES  Sums and accounts are read at one instant: read apart, a count could be missing or twice between them, and
--        readers take a counter that falls for a restart.
local prefix = KEYS[1]
--@use time calendar counted
local sums, until_day = {}, ''
local carried = redis.call('HGETALL', prefix .. 'carried')
for at = 1, #carried, 2 do
  if carried[at] == ':until' then until_day = carried[at + 1] else sums[carried[at]] = numbers_of(carried[at + 1]) end
end

local function add(account)
  local counts, already = counted_in(account)
  if not counts then return end
  local type = string.sub(account, 10)
  sums[type] = sums[type] or numbers_of('')
  add_new(sums[type], counts, already)
end

if until_day == '' then -- nothing was ever carried
  for _, account in ipairs(redis.call('SMEMBERS', prefix .. 'acct:index')) do add(account) end
else
  local types = redis.call('SMEMBERS', prefix .. 'acct:types')
  local at = now + 86400000 -- the clock may have been ahead
  while day_of(at) >= until_day do
    for _, type in ipairs(types) do add(day_of(at) .. ':' .. type) end
    at = at - 86400000
  end
end

local rows = {}
for type, sum in pairs(sums) do
  rows[#rows + 1] = type
  for at = 1, #COUNTED do rows[#rows + 1] = string.format('%.0f', sum[at]) end
end
return rows

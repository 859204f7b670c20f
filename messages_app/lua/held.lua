-- How many messages each breaker holds, by priority, and how many it held in each of the last minutes.
-- KEYS  1 prefix of every key
-- ARGV  1 number of minutes
-- RETURNS  now ms, then for each breaker that holds any: name, number and oldest first refusal in ms for high, normal and
--          low (0 and -1: none), then the number at the end of each minute of the clock, oldest first; the last one is now
-- RACES  None to win: one step, so that the numbers fit each other. An entry that a worker of an earlier version left
--        behind is removed when it is the oldest: no message that waits is removed, because its record is read here.
local prefix = KEYS[1]
--@use time check
local MINUTE, LOOKS = 60000, 100
local minutes = whole(ARGV[1], 'minutes')
local WAITS = { queued = true, scheduled = true }

-- A store that takes no writes keeps what is left behind.
local function drop_left_behind(key)
  for _, id in ipairs(redis.call('ZRANGE', key, 0, LOOKS - 1)) do
    if WAITS[redis.pcall('HGET', prefix .. 'msg:' .. id, 'state')] then return end
    if type(redis.pcall('ZREM', key, id)) == 'table' then return end
  end
end

local found = { now }
for _, breaker in ipairs(redis.call('SMEMBERS', prefix .. 'held')) do
  local row, total = { breaker }, 0
  for _, priority in ipairs({ 'high', 'normal', 'low' }) do
    local key = prefix .. 'held:' .. priority .. ':' .. breaker
    drop_left_behind(key)
    local count = redis.call('ZCARD', key)
    row[#row + 1] = count
    row[#row + 1] = tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]) or -1
    total = total + count
  end
  local was = {}
  for _, sample in ipairs(redis.call('HVALS', prefix .. 'held:was:' .. breaker)) do
    local minute, number = string.match(sample, '^(%d+):(%d+)$')
    if minute then was[tonumber(minute)] = tonumber(number) end
  end
  local this = math.floor(now / MINUTE)
  for minute = this - minutes + 1, this - 1 do row[#row + 1] = was[minute] or 0 end
  row[#row + 1] = total
  if total > 0 then found[#found + 1] = row else redis.pcall('SREM', prefix .. 'held', breaker) end
end
return found

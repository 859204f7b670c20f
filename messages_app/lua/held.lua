-- How many messages each breaker holds, by priority, and in which minutes it refused them first.
-- KEYS  1 prefix of every key
-- ARGV  1 number of minutes
-- RETURNS  now ms, then for each breaker that holds any: name, number and oldest first refusal in ms for high, normal and
--          low (0 and -1: none), then a number for each minute of the clock, oldest first; the last minute still runs
-- RACES  None to win: one step, so that the numbers fit each other. An entry that a worker of an earlier version left
--        behind is removed when it is the oldest: no message that waits is removed, because its record is read here.
local prefix = KEYS[1]
--@use time check
local MINUTE, LOOKS = 60000, 100
local minutes = whole(ARGV[1], 'minutes')
local first = (math.floor(now / MINUTE) - minutes + 1) * MINUTE
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
  local row, total, keys = { breaker }, 0, {}
  for _, priority in ipairs({ 'high', 'normal', 'low' }) do
    local key = prefix .. 'held:' .. priority .. ':' .. breaker
    drop_left_behind(key)
    local count = redis.call('ZCARD', key)
    row[#row + 1] = count
    row[#row + 1] = tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]) or -1
    total = total + count
    if count > 0 then keys[#keys + 1] = key end
  end
  for minute = 0, total > 0 and minutes - 1 or -1 do
    local from, sum = first + minute * MINUTE, 0
    for _, key in ipairs(keys) do
      sum = sum + redis.call('ZCOUNT', key, from, minute < minutes - 1 and '(' .. string.format('%.0f', from + MINUTE) or '+inf')
    end
    row[#row + 1] = sum
  end
  if total > 0 then found[#found + 1] = row else redis.pcall('SREM', prefix .. 'held', breaker) end
end
return found

-- Messages accepted since the beginning, and what the next count goes on from. What was accepted is counted by day and
-- type in the step that accepts; a sum of its own would be one write more for every message. So the accounts of today
-- and of the last sample's day say how many came since.
local function accepted_ever()
  local day, counted, total = unpack(redis.call('HMGET', prefix .. 'series', 'day', 'counted', 'accepted'))
  local types = redis.call('SMEMBERS', prefix .. 'acct:types')
  local function accepted_on(date)
    local sum = 0
    for _, type in ipairs(types) do
      sum = sum + (tonumber(redis.call('HGET', prefix .. 'acct:' .. date .. ':' .. type, 'accepted')) or 0)
    end
    return sum
  end
  local today = day_of(now)
  local count = accepted_on(today)
  total, counted = tonumber(total) or 0, tonumber(counted) or 0
  if day == today then
    total = total + math.max(0, count - counted)
  elseif day then
    total = total + math.max(0, accepted_on(day) - counted) + count
  end
  return total, count, today
end

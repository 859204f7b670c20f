-- The times of a client's last requests, oldest first: exact in every window, whatever its edges.
-- Answers allowed, remaining, and the ms until a request is (again) free to go.
local RATE_PRUNE = 1000 -- old entries dropped by one call: a burst long ago must not hold up the server

local function rate(client, limit, window)
  if limit < 1 or window < 1 then error('BADARG rate') end
  local key = prefix .. 'rate:' .. client
  local taken = redis.call('RPUSH', key, stamp)
  local oldest = tonumber(redis.call('LINDEX', key, 0))
  local pruned = 0
  while oldest <= now - window and pruned < RATE_PRUNE do
    redis.call('LPOP', key)
    oldest, taken, pruned = tonumber(redis.call('LINDEX', key, 0)), taken - 1, pruned + 1
  end
  if taken > limit and oldest > now - window then
    redis.call('RPOP', key) -- what is refused does not count
    return false, 0, oldest + window - now
  end
  redis.call('PEXPIRE', key, window)
  local left = math.max(0, limit - taken)
  return true, left, left > 0 and 0 or math.max(0, oldest + window - now)
end

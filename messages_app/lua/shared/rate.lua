-- The times of a client's last `limit` requests, oldest first: exact in every window, whatever its edges.
-- Answers allowed, remaining, and the ms until a request is (again) free to go.
local RATE_PRUNE = 1000

local function rate(client, limit, window)
  if limit < 1 or window < 1 then error('BADARG rate') end
  local key = prefix .. 'rate:' .. client
  local oldest = tonumber(redis.call('LINDEX', key, 0))
  if redis.call('LLEN', key) >= limit and oldest > now - window then
    return false, 0, oldest + window - now
  end
  redis.call('RPUSH', key, now)
  redis.call('PEXPIRE', key, window)
  local pruned = 0
  while oldest and pruned < RATE_PRUNE
    and (oldest <= now - window or redis.call('LLEN', key) > limit) do
    redis.call('LPOP', key)
    oldest = tonumber(redis.call('LINDEX', key, 0))
    pruned = pruned + 1
  end
  local left = math.max(0, limit - redis.call('LLEN', key))
  return true, left, left > 0 and 0 or oldest + window - now
end

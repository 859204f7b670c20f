-- The times of a client's last requests, oldest first: exact in every window, whatever its edges.
local RATE_PRUNE = 1000 -- old entries dropped by one call: a burst long ago must not hold up the server
local clients

-- Count a request. Answers allowed, remaining, and the ms until a request is (again) free to go. A client's first request
-- of a call is written at once, the others by write_rates.
local function rate(client, limit, window)
  if limit < 1 or window < 1 then error('BADARG rate') end
  local key = prefix .. 'rate:' .. client
  local known = clients and clients[key]
  local is_first = not known
  if is_first then
    local taken = redis.call('RPUSH', key, stamp)
    known = { taken = taken, oldest = tonumber(redis.call('LINDEX', key, 0)), window = 0, more = false }
    if clients then clients[key] = known else clients = { [key] = known } end
  else
    known.taken = known.taken + 1
  end
  local since, pruned = now - window, 0
  while known.oldest <= since and pruned < RATE_PRUNE do
    redis.call('LPOP', key)
    known.oldest, known.taken, pruned = tonumber(redis.call('LINDEX', key, 0)) or now, known.taken - 1, pruned + 1
  end
  local taken, reset = known.taken, known.oldest - since
  if taken > limit and reset > 0 then
    if is_first then redis.call('RPOP', key) end -- what is refused does not count
    known.taken = taken - 1
    return false, 0, reset
  end
  if not is_first then
    known.more = known.more or {}
    known.more[#known.more + 1] = stamp
  end
  if window > known.window then known.window = window end
  if taken < limit then return true, limit - taken, 0 end
  return true, 0, math.max(0, reset)
end

local function write_rates()
  for key, known in pairs(clients or {}) do
    if known.more then redis.call('RPUSH', key, unpack(known.more)) end
    if known.window > 0 then redis.call('PEXPIRE', key, known.window) end
  end
end

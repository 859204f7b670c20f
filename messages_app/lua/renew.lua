-- Prolong the leases of running messages, each never past its own cap.
-- KEYS  1 prefix of every key
-- ARGV  1 lease ms, then for each message: id, fence, cap (ms since 1970)
-- RETURNS  ids that are lost: not running any more, or running under another fence
-- RACES  A lease that was taken away must not come back: state, fence and new end are one step.
local prefix = KEYS[1]
--@use time check
local lease = whole(ARGV[1], 'lease')
local lost = {}
for at = 2, #ARGV, 3 do
  local id, fence, cap = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]) or 0
  local key = prefix .. 'msg:' .. id
  local state, held, lease_until = unpack(redis.call('HMGET', key, 'state', 'fence', 'leaseUntil'))
  if state ~= 'running' or held ~= fence then --[g] running, fence equal
    lost[#lost + 1] = id
  else
    local til = math.min(now + lease, cap)
    if til > tonumber(lease_until) then
      redis.call('HSET', key, 'leaseUntil', til)
      redis.call('ZADD', prefix .. 'due:running', til, id)
    end
  end
end
return lost

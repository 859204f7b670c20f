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
  local holds = true
  if state ~= 'running' then holds = false end --[g] running
  if held ~= fence then holds = false end --[g] fence equal
  local til = math.min(now + lease, cap)
  if not holds then
    lost[#lost + 1] = id
  elseif til > tonumber(lease_until) then
    redis.call('HSET', key, 'leaseUntil', til)
    redis.call('ZADD', prefix .. 'due:running', til, id)
  end
end
return lost

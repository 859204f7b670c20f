-- Take messages back unspent: refused by a breaker, handed back at shutdown, or claimed ahead and not started.
-- KEYS  1 prefix of every key
-- ARGV  for each message: id, fence, wait in ms (0: back into its lane), why (breaker, shutdown, prefetch),
--       attempt JSON or empty
-- RETURNS  for each message: applied, already, stale
-- RACES  Giving back and waking up are one step, so that no message waits without anybody knowing.
local prefix = KEYS[1]
--@use time calendar wake outcome

-- A refusal starts the clock after which a message is held no longer. What only changes hands keeps its turn: it goes
-- to the front of its lane.
local function defer(id, fence, delay, why, attempt)
  local wait = tonumber(delay)
  if not (wait and wait >= 0) then return 'stale' end
  local record = read(id)
  local verdict = judge(record, fence)
  if verdict ~= 'applied' then return verdict end
  local key, refused = prefix .. 'msg:' .. id, why == 'breaker'
  local deferrals, since = tonumber(record.deferrals) or 0, record.deferredSince
  if refused then
    deferrals = deferrals + 1
    if since == '' then since = now end
  end
  if #record.attempts > ATTEMPTS_MAX then attempt = '' end
  redis.call('HSET', key, 'closedFence', fence, 'leaseUntil', '', 'startedAt', '', 'owner', '',
    'deferrals', deferrals, 'deferredSince', since, 'attempts', appended(record.attempts, attempt))
  redis.call('ZREM', prefix .. 'due:running', id)
  if wait > 0 then
    local due = now + math.ceil(wait)
    redis.call('HSET', key, 'state', 'scheduled', 'dueAt', due)
    redis.call('ZADD', prefix .. 'due:scheduled', due, id)
  else
    local wakes = tonumber(record.wakes) + 1
    redis.call('HSET', key, 'state', 'queued', 'wakes', wakes, 'wakeAt', refused and now or 0)
    wake(id, record.epoch, record.attempt, lane_of(record.priority, tonumber(record.recoveries)), wakes, not refused)
  end
  return 'applied'
end

local verdicts = {}
for at = 1, #ARGV, 5 do
  verdicts[#verdicts + 1] = defer(ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4])
end
return verdicts

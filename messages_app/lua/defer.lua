-- Take messages back unspent: refused by a breaker, handed back at shutdown, or claimed ahead and not started.
-- KEYS  1 prefix of every key
-- ARGV  for each message: id, fence, wait in ms (0: back into its lane), why (breaker, shutdown, prefetch),
--       attempt JSON or empty, the breaker that refused it or empty
-- RETURNS  for each message: applied, already, stale, refused (it cannot be written)
-- RACES  Giving back and waking up are one step, so that no message waits without anybody knowing.
local prefix = KEYS[1]
--@use time calendar wake outcome alone tally each
local STORY_MAX = 65536 -- beyond this, refusals leave no more traces in the message's story

-- A refusal starts the clock after which a message is held no longer. What only changes hands keeps its turn: it goes
-- to the front of its lane. The attempt stays what it is.
local function defer(id, fence, delay, why, attempt, breaker)
  local wait = tonumber(delay)
  local record = read(id, 'state', 'fence', 'epoch', 'attempt', 'priority', 'recoveries', 'wakes', 'deferrals',
    'deferredSince')
  local verdict = judge(record, fence)
  if verdict ~= 'applied' then return verdict end
  if not (wait and wait >= 0 and wait < math.huge) then return 'refused' end
  local key, refused = prefix .. 'msg:' .. id, why == 'breaker'
  if redis.call('STRLEN', prefix .. 'story:' .. id) < STORY_MAX then tell(id, attempt) end
  redis.call('HSET', key, 'startedAt', '', 'owner', '')
  ended[#ended + 1] = id
  if refused then
    tally('held')
    local since = record.deferredSince ~= '' and record.deferredSince or stamp
    redis.call('HSET', key, 'deferrals', (tonumber(record.deferrals) or 0) + 1, 'deferredSince', since, 'heldBy', breaker)
    if breaker ~= '' then
      redis.call('SADD', prefix .. 'held', breaker)
      redis.call('ZADD', prefix .. 'held:' .. record.priority .. ':' .. breaker, since, id)
    end
  end
  if wait > 0 then
    local due = now + math.ceil(wait)
    redis.call('HSET', key, 'state', 'scheduled', 'dueAt', due)
    redis.call('ZADD', prefix .. 'due:scheduled', due, id)
  else
    local lane, wakes = lane_of(record.priority, tonumber(record.recoveries) or 0), (tonumber(record.wakes) or 0) + 1
    redis.call('HSET', key, 'state', 'queued', 'wakes', wakes, 'wakeAt', refused and stamp or '0')
    wake(id, record.epoch, record.attempt, lane, wakes, not refused)
  end
  return 'applied'
end

return apply_each(defer, 1, 6)

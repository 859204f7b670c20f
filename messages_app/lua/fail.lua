-- End attempts in failure: wait for the next one, or give the message up.
-- KEYS  1 prefix of every key
-- ARGV  for each message: id, fence, wait before the next attempt in ms (empty: give up), error JSON, attempt JSON
-- RETURNS  for each message: applied (it waits), to_outbox TIME DAY (given up then, accepted on that day), already, stale,
--          refused (it cannot be written)
-- RACES  A repeated failure must not use up a second retry, and a message given up must be in the outbox by the same
--        step, whatever dies next.
local prefix = KEYS[1]
--@use time outcome alone tally each

local function fail(id, fence, delay, problem, attempt)
  local wait = tonumber(delay)
  local record = read(id, 'state', 'fence', 'attempt', 'maxRetries', 'priorRuns', 'replayId', 'account')
  local verdict = judge(record, fence)
  if verdict ~= 'applied' then return verdict end
  local key, number, retries = prefix .. 'msg:' .. id, tonumber(record.attempt), tonumber(record.maxRetries)
  if not (number and retries) then return 'refused' end
  if delay ~= '' and not (wait and wait >= 0 and wait < math.huge) then return 'refused' end
  tell(id, attempt)
  local runs = (tonumber(record.priorRuns) or 0) + 1
  ended[#ended + 1] = id
  tally('failed')
  if wait and number < retries then --[g] retries left
    local due = now + math.ceil(wait)
    redis.call('HSET', key, 'lastError', problem, 'deferredSince', '', 'priorRuns', runs, 'state', 'retry_wait',
      'attempt', number + 1, 'dueAt', due)
    redis.call('ZADD', prefix .. 'due:retry_wait', due, id)
    return 'applied'
  end
  redis.call('HSET', key, 'lastError', problem, 'deferredSince', '', 'priorRuns', runs, 'state', 'dead_pending',
    'finishedAt', stamp, 'outbox', 'death')
  redis.call('ZADD', prefix .. 'outbox', stamp, id)
  if record.replayId == '' then tally('died') end -- else its letter is there already
  return 'to_outbox ' .. stamp .. ' ' .. (string.match(record.account, '^(%d+):') or '')
end

return apply_each(fail, 1, 5)

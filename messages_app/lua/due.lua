-- Move what time alone moves: due retries and schedules into their lanes, lost runs back or out, lost wake-ups again.
-- KEYS  1 prefix of every key
-- ARGV  1 limit of messages looked at per index
-- RETURNS  moved, next due ms or -1, now ms, recovered, given up, woken again
-- RACES  Leaving the index and entering the lane is one step, or a mover killed in between would lose the message. State
--        and time are read again here: whoever listed the id may have listed it long ago.
local prefix = KEYS[1]
--@use time check calendar wake outcome
local limit = whole(ARGV[1], 'limit')
local LOSSES_MAX = 3
local WAKE_UP_MS = 10000 -- a wake-up younger than this may still be on its way
local LANES = { 'high', 'normal', 'low', 'alone' }
local moved, recovered, given_up, rewoken = 0, 0, 0, 0

local function queue(id, record, recoveries, attempts)
  local wakes = tonumber(record.wakes) + 1
  redis.call('HSET', prefix .. 'msg:' .. id, 'state', 'queued', 'dueAt', '', 'leaseUntil', '', 'wakes', wakes,
    'wakeAt', now, 'recoveries', recoveries, 'attempts', attempts)
  wake(id, record.epoch, record.attempt, lane_of(record.priority, recoveries), wakes)
end

-- `owner` and `startedAt` come from a worker: they are written as JSON strings.
local function lost_attempt(record, owner, started)
  return '{"number":' .. (record.attempt + 1) .. ',"startedAt":' .. (started > 0 and '"' .. iso(started) .. '"' or 'null')
    .. ',"endedAt":"' .. iso(now) .. '","outcome":"lost","errorType":"WORKER_LOST","errorReason":'
    .. '"The process that ran it stopped answering.","retryDelayMs":null,"worker":' .. cjson.encode(owner) .. '}'
end

local function lost_error(owner)
  return '{"errorType":"WORKER_LOST","errorKind":"unknown","errorReason":"The process that ran it was lost '
    .. LOSSES_MAX .. ' times.","errorStack":"","at":"' .. iso(now) .. '","systemState":{},"worker":'
    .. cjson.encode(owner) .. '}'
end

local function recover(id, record)
  local owner, started = unpack(redis.call('HMGET', prefix .. 'msg:' .. id, 'owner', 'startedAt'))
  local recoveries = tonumber(record.recoveries) + 1
  local attempts = appended(record.attempts, lost_attempt(record, owner or '', tonumber(started) or 0))
  recovered = recovered + 1
  if recoveries < LOSSES_MAX then --[g] ends at the third loss
    return queue(id, record, recoveries, attempts)
  end
  redis.call('HSET', prefix .. 'msg:' .. id, 'state', 'dead_pending', 'finishedAt', now, 'leaseUntil', '',
    'recoveries', recoveries, 'attempts', attempts, 'lastError', lost_error(owner or ''), 'outbox', 'death')
  redis.call('ZADD', prefix .. 'outbox', now, id)
  given_up = given_up + 1
end

-- The time that a record itself holds against the index it was found in; nil when it does not belong there.
local function own_time(id, state, index)
  if state ~= index then return nil end --[g] state checked again
  return tonumber(redis.call('HGET', prefix .. 'msg:' .. id, index == 'running' and 'leaseUntil' or 'dueAt'))
end

local function move(index)
  local key = prefix .. 'due:' .. index
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, limit)) do
    local record = read(id)
    local at = own_time(id, record.state, index)
    if not at then
      redis.call('ZREM', key, id)
    elseif at > now then --[g] time checked again
      redis.call('ZADD', key, at, id)
    else
      if index == 'running' then
        recover(id, record)
      else
        queue(id, record, tonumber(record.recoveries), record.attempts)
      end
      redis.call('ZREM', key, id)
      moved = moved + 1
    end
  end
end

-- A wake-up is missing when a younger one of its lane has been claimed, or nothing is left in the lane. Long queues that
-- move are never touched.
local function wake_again(lane)
  local key, before = prefix .. 'waiting:' .. lane, now - WAKE_UP_MS
  if redis.call('LLEN', 'rq:queue:' .. lane) > 0 then
    before = math.min(before, (tonumber(redis.call('GET', prefix .. 'head:' .. lane)) or 0) - 1)
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', before, 'LIMIT', 0, limit)) do
    local record = read(id)
    if record.state == 'queued' then
      queue(id, record, tonumber(record.recoveries), record.attempts)
      redis.call('DEL', 'rq:job:' .. job_of(id, record.epoch, record.attempt, record.wakes))
      rewoken = rewoken + 1
    else
      redis.call('ZREM', key, id)
    end
  end
end

move('scheduled')
move('retry_wait')
move('running')
for _, lane in ipairs(LANES) do
  wake_again(lane) --[g] new wake-up for a queued message without one
  redis.call('SADD', 'rq:queues', 'rq:queue:' .. lane)
end

local next_at = -1
for _, index in ipairs({ 'scheduled', 'retry_wait', 'running' }) do
  local first = redis.call('ZRANGE', prefix .. 'due:' .. index, 0, 0, 'WITHSCORES')
  local at = tonumber(first[2])
  if at and (next_at < 0 or at < next_at) then next_at = at end
end
return { moved, next_at, now, recovered, given_up, rewoken }

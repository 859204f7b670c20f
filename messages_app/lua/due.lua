-- Move what time alone moves: due retries and schedules into their lanes, lost runs back or out, lost wake-ups again.
-- KEYS  1 prefix of every key
-- ARGV  1 limit of messages looked at per index
-- RETURNS  moved, next due ms or -1, now ms, recovered, given up, woken again
-- RACES  Leaving the index and entering the lane is one step, or a mover killed in between would lose the message. State
--        and time are read again here: whoever listed the id may have listed it long ago.
local prefix = KEYS[1]
--@use time check calendar wake outcome alone tally
local limit = whole(ARGV[1], 'limit')
local LOSSES_MAX = 3
local WAKE_UP_MS = 10000 -- a wake-up younger than this may still be on its way
local INDEXES, LANES = { 'scheduled', 'retry_wait', 'running' }, { 'high', 'normal', 'low', 'alone' }
local moved, recovered, given_up, rewoken = 0, 0, 0, 0

local function look(id)
  local record = read(id, 'state', 'epoch', 'attempt', 'fence', 'priority', 'recoveries', 'wakes', 'dueAt', 'leaseUntil',
    'owner', 'startedAt', 'replayId', 'alone')
  record.recoveries = tonumber(record.recoveries) or 0
  return record
end

local function queue(id, record)
  local wakes = (tonumber(record.wakes) or 0) + 1
  redis.call('HSET', prefix .. 'msg:' .. id, 'state', 'queued', 'wakes', wakes, 'wakeAt', stamp)
  wake(id, record.epoch, record.attempt, lane_of(record.priority, record.recoveries), wakes) --[g] in one step
end

-- `owner` comes from a worker: it is written as a JSON string.
local function lost_attempt(record)
  return '{"number":' .. (record.attempt + 1) .. ',"startedAt":"' .. iso(tonumber(record.startedAt) or now)
    .. '","endedAt":"' .. iso(now) .. '","outcome":"lost","errorType":"WORKER_LOST","errorReason":'
    .. '"The process that ran it stopped answering.","retryDelayMs":null,"worker":' .. cjson.encode(record.owner) .. '}'
end

local function lost_error(record)
  return '{"errorType":"WORKER_LOST","errorKind":"unknown","errorReason":"The process that ran it was lost '
    .. (record.alone == '1' and 'once' or LOSSES_MAX .. ' times') .. '.","errorStack":"","at":"' .. iso(now) .. '","systemState":{},"worker":'
    .. cjson.encode(record.owner) .. '}'
end

-- Take a lease away, and its fence with it: what its holder still sends is stale.
local function recover(id, record)
  local key = prefix .. 'msg:' .. id
  record.recoveries = record.recoveries + 1
  tell(id, lost_attempt(record))
  redis.call('HSET', key, 'recoveries', record.recoveries, 'fence', (tonumber(record.fence) or 0) + 1)
  recovered = recovered + 1
  tally('lost')
  if record.recoveries < LOSSES_MAX then return queue(id, record) end --[g] ends at the third loss
  redis.call('HSET', key, 'state', 'dead_pending', 'finishedAt', stamp, 'lastError', lost_error(record),
    'outbox', 'death')
  redis.call('ZADD', prefix .. 'outbox', stamp, id)
  given_up = given_up + 1
  if record.replayId == '' then tally('died') end
end

local function move_one(index, key, id)
  local record = look(id)
  local at = tonumber(index == 'running' and record.leaseUntil or record.dueAt) or 0
  if record.state ~= index then --[g] state checked again
    redis.call('ZREM', key, id)
  elseif at > now then --[g] time checked again
    redis.call('ZADD', key, at, id)
  else
    if index == 'running' then recover(id, record) else queue(id, record) end
    redis.call('ZREM', key, id)
    moved = moved + 1
  end
end

-- What cannot be moved stays where it is, overdue for all to see, and holds up nothing else.
local function move(index)
  local key = prefix .. 'due:' .. index
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, limit)) do
    apply_alone(move_one, index, key, id)
  end
end

-- Workers of RQ from before wake-ups had no hash drop those without one. What they dropped they find here.
local function write_job(id, record)
  local wakes, at = (tonumber(record.wakes) or 0) + 1, iso(now)
  redis.call('HSET', 'rq:job:' .. job_of(id, record.epoch, record.attempt, wakes), 'created_at', at, 'enqueued_at', at,
    'origin', lane_of(record.priority, record.recoveries), 'status', 'queued', 'description', id, 'timeout', '3600',
    'result_ttl', '60',
    'data', '["messages_app.jobs.process",null,["' .. id .. '",' .. record.epoch .. ',' .. record.attempt .. '],{}]')
end

-- A wake-up is missing when a younger one of its lane has been claimed, or nothing is left in the lane. Long queues that
-- move are never touched. A head in the future tells of a clock that was set back, and nothing of who was overtaken.
local function wake_again(lane)
  local key, before = prefix .. 'waiting:' .. lane, now - WAKE_UP_MS
  if redis.call('LLEN', 'rq:queue:' .. lane) > 0 then --[g] overtaken, or the lane empty
    local head = tonumber(redis.call('GET', prefix .. 'head:' .. lane)) or 0
    before = head > now and -1 or math.min(before, head - 1)
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', before, 'LIMIT', 0, limit)) do
    local record = look(id)
    local is_queued = record.state == 'queued'
    if is_queued then
      redis.call('DEL', 'rq:job:' .. job_of(id, record.epoch, record.attempt, record.wakes))
      queue(id, record)
      write_job(id, record)
      rewoken = rewoken + 1
    end
    if not is_queued or lane_of(record.priority, record.recoveries) ~= lane then redis.call('ZREM', key, id) end
  end
end

local function first(index)
  return tonumber(redis.call('ZRANGE', prefix .. 'due:' .. index, 0, 0, 'WITHSCORES')[2]) or math.huge
end

for _, index in ipairs(INDEXES) do move(index) end
for _, lane in ipairs(LANES) do
  wake_again(lane) --[g] new wake-up for a queued message without one
  redis.call('SADD', 'rq:queues', 'rq:queue:' .. lane)
end
write_tallies()
local next_at = math.min(first('scheduled'), first('retry_wait'), first('running'))
if next_at <= now and moved == 0 then next_at = now + 1000 end -- it cannot be moved: no reason to look at once again
return { moved, next_at < math.huge and next_at or -1, now, recovered, given_up, rewoken }

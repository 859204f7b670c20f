-- A message that was lost twice with the process that ran it is claimed alone: if it is poison, its neighbours live.
local LOSSES_BEFORE_ALONE = 2

local function lane_of(priority, recoveries)
  if recoveries >= LOSSES_BEFORE_ALONE then return 'alone' end --[g] alone after two losses
  return priority
end

local function job_of(id, epoch, attempt, wakes)
  return 'm-' .. id .. '-' .. epoch .. '-' .. attempt .. '-' .. wakes
end

-- Sleeping workers wait on the bell. It holds a few rings at most: one is enough for each worker that sleeps.
local BELL_MAX = 16
local function ring()
  if redis.call('LLEN', prefix .. 'bell') < BELL_MAX then redis.call('LPUSH', prefix .. 'bell', '1') end
end

-- Push the wake-up of a queued message into its lane. It has no hash of RQ's: its id says all that RQ's own worker needs
-- (jobs.py), and the hash was a third of the cost of an acceptance.
-- `wakes` rises with each push, so that no job id is ever used twice. The caller writes `wakes` and `wakeAt`
-- into the record: 0 for a push to the front, which says nothing about how far the lane has come.
local function wake(id, epoch, attempt, lane, wakes, to_front)
  local job = job_of(id, epoch, attempt, wakes)
  redis.call(to_front and 'LPUSH' or 'RPUSH', 'rq:queue:' .. lane, job)
  redis.call('ZADD', prefix .. 'waiting:' .. lane, stamp, id)
  ring()
end

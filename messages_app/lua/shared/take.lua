-- The fields of a claimed message, in the order of the answer; story, body and id follow them.
local CLAIM_FIELDS = { 'epoch', 'attempt', 'fence', 'startedAt', 'queuedAt', 'priorRuns', 'recoveries', 'deferrals',
  'deferredSince', 'state', 'edited', 'wakes', 'wakeAt' }
local EPOCH, ATTEMPT, FENCE, STARTED_AT, RECOVERIES = 1, 2, 3, 4, 7
local STATE, EDITED, WAKES, WAKE_AT = 10, 11, 12, 13

local function look(id)
  return redis.call('HMGET', prefix .. 'msg:' .. id, unpack(CLAIM_FIELDS))
end

-- What to run: the edited content, if this epoch has one.
local function body_of(id, row)
  return redis.call('GET', prefix .. (row[EDITED] == '1' and 'run:' or 'body:') .. id) or ''
end

local function answer(id, row, body)
  row[STATE], row[EDITED], row[WAKES], row[WAKE_AT] = redis.call('GET', prefix .. 'story:' .. id) or '{}', body, id, nil
  return row
end

-- Lost, doubled and late wake-ups end here: one that does not fit the message as it stands has no effect.
local function fits(row, epoch, attempt)
  if row[STATE] ~= 'queued' then return false end --[g] only from queued
  if row[EPOCH] ~= epoch then return false end --[g] epoch of the wake-up
  if row[ATTEMPT] ~= attempt then return false end --[g] attempt of the wake-up
  return true
end

-- How far a lane has come: the push time of the youngest wake-up claimed from it. A doubled wake-up that is older
-- than the newest one (or one pushed to the front) proves nothing and is left out.
local heads = {}
local function progress(lane, row, wakes)
  if row[WAKES] ~= wakes then return end
  heads[lane] = math.max(heads[lane] or 0, tonumber(row[WAKE_AT]) or 0)
end

local function write_progress()
  for lane, at in pairs(heads) do
    local key = prefix .. 'head:' .. lane
    if at > (tonumber(redis.call('GET', key)) or 0) then redis.call('SET', key, at) end
  end
end

-- A wake-up that somebody moved to another lane is as good as any, but its message waits in the index of its own.
local function leave(id, row, lane, wakes)
  if redis.call('ZREM', prefix .. 'waiting:' .. lane, id) == 1 then return progress(lane, row, wakes) end
  redis.call('ZREM', prefix .. 'waiting:' .. redis.call('HGET', prefix .. 'msg:' .. id, 'priority'), id)
end

-- Give the message to `owner` until the lease ends. The fence is above every earlier one, also after the server fell
-- back to an older state of itself: then the clock is ahead of any count.
local function hand_out(id, row, owner, lease_until)
  local fence, count = stamp, (tonumber(row[FENCE]) or 0) + 1
  if count > now then fence = string.format('%.0f', count) end --[g] fence from count and clock
  redis.call('HSET', prefix .. 'msg:' .. id, 'state', 'running', 'fence', fence, 'leaseUntil', lease_until,
    'startedAt', stamp, 'owner', owner)
  redis.call('ZADD', prefix .. 'due:running', lease_until, id)
  row[FENCE], row[STARTED_AT] = fence, stamp
  return fence
end

-- The answer to the repetition of a claim: what that claim handed out and what still runs under those fences.
local function again(token)
  local handed = redis.call('GET', prefix .. 'claimed:' .. token)
  if not handed then return nil end
  local rows = {}
  for id, fence in string.gmatch(handed, '(%S+) (%S+)') do
    local row = look(id)
    if row[STATE] == 'running' and row[FENCE] == fence then rows[#rows + 1] = answer(id, row, body_of(id, row)) end
  end
  return rows
end

local function remember(token, handed)
  if #handed > 0 then redis.call('SET', prefix .. 'claimed:' .. token, table.concat(handed, ' '), 'PX', 60000) end
end

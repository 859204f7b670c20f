-- The fields of a claimed message. An answer holds the first nine, then story, body and id (ClaimRow in ledger_codec.py).
local CLAIM_FIELDS = { 'epoch', 'attempt', 'fence', 'startedAt', 'queuedAt', 'priorRuns', 'recoveries', 'deferrals',
  'deferredSince', 'state', 'edited', 'wakes', 'wakeAt' }
local EPOCH, ATTEMPT, FENCE, STARTED_AT, RECOVERIES, DEFERRED_SINCE = 1, 2, 3, 4, 7, 9
local STATE, EDITED, WAKES, WAKE_AT = 10, 11, 12, 13
local ANSWER_STORY, ANSWER_BODY, ANSWER_ID, ANSWER_END = 10, 11, 12, 13 -- they replace fields that no caller needs

local function look(id)
  return redis.call('HMGET', prefix .. 'msg:' .. id, unpack(CLAIM_FIELDS))
end

-- What was accepted and what to run: the edited content, if this epoch has one.
local function content(id, row)
  return unpack(redis.call('MGET', prefix .. 'story:' .. id, prefix .. (row[EDITED] == '1' and 'run:' or 'body:') .. id))
end

local function answer(id, row, story, body)
  row[ANSWER_STORY], row[ANSWER_BODY], row[ANSWER_ID], row[ANSWER_END] = story or '{}', body or '', id, nil
  return row
end

-- Lost, doubled and late wake-ups end here: one that does not fit the message as it stands has no effect.
local function fits(row, epoch, attempt)
  if row[STATE] ~= 'queued' then return false end --[g] only from queued
  if row[EPOCH] ~= epoch then return false end --[g] epoch of the wake-up
  if row[ATTEMPT] ~= attempt then return false end --[g] attempt of the wake-up
  return true
end

-- What a claim has handed out so far; the indexes are written once for all of it.
local handed, running, left, heads = {}, {}, {}, {}

-- A message that a breaker held runs now. Few were ever held: only their records are read for the name.
local function hold_no_longer(id, row)
  if (row[DEFERRED_SINCE] or '') == '' then return end
  local breaker, priority = unpack(redis.call('HMGET', prefix .. 'msg:' .. id, 'heldBy', 'priority'))
  if breaker and breaker ~= '' then redis.call('ZREM', prefix .. 'held:' .. priority .. ':' .. breaker, id) end
end

-- Give the message to `owner` until the lease ends. The fence is above every earlier one, also after the server fell
-- back to an older state of itself: then the clock is ahead of any count.
local function hand_out(id, row, owner, lease_until)
  local fence, count = stamp, (tonumber(row[FENCE]) or 0) + 1
  if count > now then fence = string.format('%.0f', count) end --[g] fence from count and clock
  redis.call('HSET', prefix .. 'msg:' .. id, 'state', 'running', 'fence', fence, 'leaseUntil', lease_until,
    'startedAt', stamp, 'owner', owner)
  hold_no_longer(id, row)
  row[FENCE], row[STARTED_AT] = fence, stamp
  handed[#handed + 1] = id .. ' ' .. fence
  running[#running + 1] = lease_until
  running[#running + 1] = id
end

-- The message has left its lane. How far a lane has come is the push time of the youngest wake-up claimed from it; one
-- that is older than the message's newest (a doubled one), or was pushed to the front, proves nothing.
local function leave(id, row, lane, wakes)
  left[lane] = left[lane] or {}
  table.insert(left[lane], id)
  if row[WAKES] == wakes then heads[lane] = math.max(heads[lane] or 0, tonumber(row[WAKE_AT]) or 0) end
end

local function advance(lane)
  local key = prefix .. 'head:' .. lane
  if heads[lane] and heads[lane] > (tonumber(redis.call('GET', key)) or 0) then redis.call('SET', key, heads[lane]) end
end

local function write_indexes()
  if #running > 0 then redis.call('ZADD', prefix .. 'due:running', unpack(running)) end
  for lane, ids in pairs(left) do
    if redis.call('ZREM', prefix .. 'waiting:' .. lane, unpack(ids)) == #ids then
      advance(lane)
    else -- somebody has moved wake-ups between lanes: their messages wait in the index of their own
      for _, id in ipairs(ids) do
        redis.call('ZREM', prefix .. 'waiting:' .. redis.call('HGET', prefix .. 'msg:' .. id, 'priority'), id)
      end
    end
  end
end

-- The answer to the repetition of a claim: what that claim handed out and what still runs under those fences.
local function again(token)
  local handed = redis.call('GET', prefix .. 'claimed:' .. token)
  if not handed then return nil end
  local rows = {}
  for id, fence in string.gmatch(handed, '(%S+) (%S+)') do
    local row = look(id)
    if row[STATE] == 'running' and row[FENCE] == fence then rows[#rows + 1] = answer(id, row, content(id, row)) end
  end
  return rows
end

local function remember(token)
  if #handed > 0 then redis.call('SET', prefix .. 'claimed:' .. token, table.concat(handed, ' '), 'PX', 60000) end
end

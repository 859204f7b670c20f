-- What the outcome scripts read of a record, by name.
local OUTCOME_FIELDS = { 'state', 'fence', 'closedFence', 'epoch', 'attempt', 'maxRetries', 'priority', 'recoveries',
  'wakes', 'deferrals', 'deferredSince', 'priorRuns', 'attempts', 'type', 'acctDay', 'replayId' }

local function read(id)
  local values = redis.call('HMGET', prefix .. 'msg:' .. id, unpack(OUTCOME_FIELDS))
  local record = {}
  for at, name in ipairs(OUTCOME_FIELDS) do record[name] = values[at] or '' end
  return record
end

-- May this fence still speak for the message? `already` is the answer to a repetition of what was applied.
local function judge(record, fence)
  if record.closedFence ~= '' and record.closedFence == fence then return 'already' end
  if record.state ~= 'running' then return 'stale' end --[g] only from running
  if record.fence ~= fence then return 'stale' end --[g] fence equal
  return 'applied'
end

-- A list of attempts never outgrows this; beyond it, refusals leave no more traces.
local ATTEMPTS_MAX = 65536

local function appended(attempts, entry)
  if entry == '' then return attempts end
  if attempts == '' then return entry end
  return attempts .. ',' .. entry
end

-- What the outcome scripts read of a record, by name. What was never written reads as empty.
local function read(id, ...)
  local names, record = { ... }, {}
  for at, value in ipairs(redis.call('HMGET', prefix .. 'msg:' .. id, ...)) do record[names[at]] = value or '' end
  return record
end

-- May this fence still speak for the message? `already` is the answer to a repetition of what was applied: whoever
-- takes a lease away takes its fence away too, so an equal fence that does not run has had its say.
local function judge(record, fence)
  if record.fence ~= fence then return 'stale' end --[g] fence equal
  if record.state ~= 'running' then return 'already' end --[g] only from running
  return 'applied'
end

-- Messages that run no longer; their index is written once for all of them.
local ended = {}
local function write_ended()
  for first = 1, #ended, 1000 do
    redis.call('ZREM', prefix .. 'due:running', unpack(ended, first, math.min(first + 999, #ended)))
  end
end

-- Attempts are lines at the end of the message's story.
local function tell(id, attempt)
  if attempt ~= '' then redis.call('APPEND', prefix .. 'story:' .. id, '\n' .. attempt) end
end

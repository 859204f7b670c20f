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

-- Errors that one message causes: a key of another kind, a text that grows too long, a field that is no number.
local OF_ONE = { 'WRONGTYPE', 'exceeds maximum', 'attempt to ', 'not an integer' }

-- Apply one outcome of many. Without this the error of one would end the script before the others are written down whole.
-- Nothing of a refused outcome is written: the parts of a message are written in an order in which only the first can fail.
local function apply_alone(apply, ...)
  local ok, answer = pcall(apply, ...)
  if ok then return answer end
  local why = type(answer) == 'table' and answer.err or tostring(answer)
  for _, words in ipairs(OF_ONE) do
    if string.find(why, words, 1, true) then return 'refused' end
  end
  error(answer) -- of the server: the whole call is sent again
end

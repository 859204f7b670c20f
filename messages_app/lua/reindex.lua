-- Put messages into the index that their record asks for and out of all others, and give them the expiry of their state.
-- Repairs what no other script leaves behind: keys that were lost, deleted or written by hand.
-- KEYS  1 prefix of every key
-- ARGV  1 ms a record is kept, then ids
-- RETURNS  for each id: number of changes
-- RACES  The record is read and the indexes are written in one step, so a message that moves meanwhile is where it says.
local prefix = KEYS[1]
--@use time check wake outcome
local record_ttl = whole(ARGV[1], 'record ttl')
local LANES = { 'waiting:high', 'waiting:normal', 'waiting:low', 'waiting:alone' }
local INDEXES = { LANES[1], LANES[2], LANES[3], LANES[4], 'due:scheduled', 'due:retry_wait', 'due:running', 'outbox' }
local PARTS = { 'msg:', 'story:', 'body:', 'run:' }
local IN_DUE = { scheduled = 'dueAt', retry_wait = 'dueAt', running = 'leaseUntil' }
local PRIORITIES = { high = 'high', normal = 'normal', low = 'low' }
local ENDED = { done = true, dead = true }

-- Where the message belongs and with which score; nothing for one that has ended.
local function place(id, record)
  if record.state == 'queued' then
    for _, lane in ipairs(LANES) do
      local score = redis.call('ZSCORE', prefix .. lane, id)
      if score then return lane, score end -- the mover changes the lane, if it is the wrong one
    end
    return 'waiting:' .. lane_of(PRIORITIES[record.priority] or 'normal', tonumber(record.recoveries) or 0), stamp
  elseif IN_DUE[record.state] then
    return 'due:' .. record.state, tonumber(record[IN_DUE[record.state]]) and record[IN_DUE[record.state]] or stamp
  elseif record.outbox ~= '' and redis.call('HEXISTS', prefix .. 'quarantine', id) == 0 then
    return 'outbox', redis.call('ZSCORE', prefix .. 'outbox', id) or stamp
  end
end

local function write_indexes(id, wanted, score)
  local changes = 0
  for _, index in ipairs(INDEXES) do
    if index ~= wanted then
      changes = changes + redis.call('ZREM', prefix .. index, id)
    elseif not redis.call('ZSCORE', prefix .. index, id) then
      changes = changes + redis.call('ZADD', prefix .. index, score, id)
    end
  end
  return changes
end

-- An open message never expires. An ended one, and a payload without a record, do.
local function write_expiry(id, is_open)
  local changes = 0
  for _, part in ipairs(PARTS) do
    local key = prefix .. part .. id
    if is_open then
      changes = changes + redis.call('PERSIST', key)
    elseif redis.call('PTTL', key) == -1 then
      changes = changes + redis.call('PEXPIRE', key, record_ttl)
    end
  end
  return changes
end

local function reindex(id)
  local record = read(id, 'state', 'outbox', 'priority', 'recoveries', 'dueAt', 'leaseUntil')
  local changes = 0
  if record.state == 'dead_pending' and record.outbox == '' then
    redis.call('HSET', prefix .. 'msg:' .. id, 'outbox', 'death')
    record.outbox, changes = 'death', 1
  end
  if record.outbox == '' then changes = changes + redis.call('HDEL', prefix .. 'quarantine', id) end
  local is_open = record.state ~= '' and not (ENDED[record.state] and record.outbox == '')
  local wanted, score = place(id, record)
  if is_open and not wanted and record.outbox == '' then return changes end -- an unknown state: for a person
  return changes + write_indexes(id, wanted, score) + write_expiry(id, is_open)
end

local answers = {}
for at = 2, #ARGV do answers[#answers + 1] = reindex(identifier(ARGV[at])) end
return answers

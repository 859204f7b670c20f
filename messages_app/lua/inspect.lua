-- Read records with the indexes that contain them, to check one against the other.
-- KEYS  1 prefix of every key
-- ARGV  1 all (1: also the indexes of ended messages, 0: not), then ids
-- RETURNS  now ms, then for each id: fields (of FIELDS), pttl of the record, of the payload (-2: missing), 1 if an edited
--          content is missing, 1 if the job of the newest wake-up exists, then index, score, … of those that contain it
-- RACES  Each move is one script, and so is this: what differs here differs, and is not under way.
local prefix = KEYS[1]
--@use time
local FIELDS = { 'state', 'epoch', 'attempt', 'outbox', 'account', 'replayId', 'dueAt', 'leaseUntil', 'priority', 'wakes',
  'wakeAt', 'edited' }
local STATE, EPOCH, ATTEMPT, OUTBOX, WAKES, EDITED = 1, 2, 3, 4, 10, 12
local INDEXES = { 'waiting:high', 'waiting:normal', 'waiting:low', 'waiting:alone', 'due:scheduled', 'due:retry_wait',
  'due:running', 'outbox' }
local ENDED = { done = true, dead = true }

local function indexes_of(id)
  local places = {}
  for _, index in ipairs(INDEXES) do
    local score = redis.call('ZSCORE', prefix .. index, id)
    if score then
      places[#places + 1] = index
      places[#places + 1] = score
    end
  end
  if redis.call('HEXISTS', prefix .. 'quarantine', id) == 1 then
    places[#places + 1] = 'quarantine'
    places[#places + 1] = '0'
  end
  return places
end

local rows = { stamp }
for at = 2, #ARGV do
  local id = ARGV[at]
  local fields = redis.pcall('HMGET', prefix .. 'msg:' .. id, unpack(FIELDS))
  if fields.err then fields = { 'damaged' } end
  for i = 1, #FIELDS do fields[i] = fields[i] or '' end
  local is_open = not ENDED[fields[STATE]] or fields[OUTBOX] ~= ''
  local edited_missing, job_exists = 0, 0
  if is_open and fields[EDITED] == '1' then edited_missing = 1 - redis.call('EXISTS', prefix .. 'run:' .. id) end
  if fields[STATE] == 'queued' then
    job_exists = redis.call('EXISTS', 'rq:job:m-' .. id .. '-' .. fields[EPOCH] .. '-' .. fields[ATTEMPT] .. '-' .. fields[WAKES])
  end
  rows[at] = { fields, redis.call('PTTL', prefix .. 'msg:' .. id), is_open and redis.call('PTTL', prefix .. 'body:' .. id) or -2,
    edited_missing, job_exists, (is_open or ARGV[1] == '1') and indexes_of(id) or {} }
end
return rows

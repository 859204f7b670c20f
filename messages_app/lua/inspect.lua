-- Read records with the indexes that contain them, to check one against the other.
-- KEYS  1 prefix of every key
-- ARGV  1 all (1: also the indexes of ended messages, 0: not), then ids
-- RETURNS  now ms, then for each id: fields (of FIELDS), pttl of the record, of the payload (-2: missing), 1 if an edited
--          content is missing, 1 if its wake-up is not known to be missing, then index, score, … of those that contain it
-- RACES  Each move is one script, and so is this: what differs here differs, and is not under way.
local prefix = KEYS[1]
--@use time
local FIELDS = { 'state', 'epoch', 'attempt', 'outbox', 'account', 'replayId', 'dueAt', 'leaseUntil', 'priority', 'wakes',
  'wakeAt', 'edited' }
local STATE, OUTBOX, EDITED = 1, 4, 12
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

-- As in due.lua: a wake-up is missing when its lane is empty or a younger one of its lane was claimed.
local function has_wake_up(places)
  for at = 1, #places, 2 do
    local lane = string.match(places[at], '^waiting:(.+)$')
    if lane then
      local head = tonumber(redis.call('GET', prefix .. 'head:' .. lane)) or 0
      local overtaken = head <= now and tonumber(places[at + 1]) < head
      return redis.call('LLEN', 'rq:queue:' .. lane) > 0 and not overtaken and 1 or 0
    end
  end
  return 0
end

local rows = { stamp }
for at = 2, #ARGV do
  local id = ARGV[at]
  local fields = redis.pcall('HMGET', prefix .. 'msg:' .. id, unpack(FIELDS))
  if fields.err then fields = { 'damaged' } end
  for i = 1, #FIELDS do fields[i] = fields[i] or '' end
  local is_open = not ENDED[fields[STATE]] or fields[OUTBOX] ~= ''
  local edited_missing, woken = 0, 0
  if is_open and fields[EDITED] == '1' then edited_missing = 1 - redis.call('EXISTS', prefix .. 'run:' .. id) end
  local places = (is_open or ARGV[1] == '1') and indexes_of(id) or {}
  if fields[STATE] == 'queued' then woken = has_wake_up(places) end
  rows[at] = { fields, redis.call('PTTL', prefix .. 'msg:' .. id), is_open and redis.call('PTTL', prefix .. 'body:' .. id) or -2,
    edited_missing, woken, places }
end
return rows

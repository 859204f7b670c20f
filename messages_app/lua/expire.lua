-- Delete the payloads and stories of messages that were done long enough ago.
-- KEYS  1 prefix of every key
-- ARGV  1 messages after which no further entry of `ended` is begun
-- RETURNS  messages looked at; when fewer than that, no other is due
-- RACES  An id may have been accepted or forwarded again since: only the end that the entry names counts, and it is read in
--        the step that deletes.
local prefix = KEYS[1]
--@use time check
local most = whole(ARGV[1], 'most')
local MAX_ARGUMENTS = 1000
local looked, keys = 0, {}

-- Whether this end is the last that the message had. A payload without a record belongs to nothing.
local function is_last(id, ended_at)
  local record = redis.pcall('HMGET', prefix .. 'msg:' .. id, 'state', 'finishedAt', 'replayId')
  if record.err then return false end
  local state, finished_at, replay_id = unpack(record)
  if not state then return true end
  if finished_at ~= ended_at or (replay_id or '') ~= '' then return false end --[g] the same end
  return state == 'done'
end

while looked < most do
  local entry = redis.call('LINDEX', prefix .. 'ended', 0)
  local due, ended_at, ids = string.match(entry or '', '^(%d+) (%d+) (.+)$')
  if not entry or due and tonumber(due) > now then break end
  for id in string.gmatch(ids or '', '%S+') do
    looked = looked + 1
    if is_last(id, ended_at) then
      keys[#keys + 1] = prefix .. 'story:' .. id
      keys[#keys + 1] = prefix .. 'body:' .. id
    end
  end
  redis.call('LPOP', prefix .. 'ended')
end
for first = 1, #keys, MAX_ARGUMENTS do
  redis.call('UNLINK', unpack(keys, first, math.min(first + MAX_ARGUMENTS - 1, #keys)))
end
return looked

-- Some of the messages that are under way, without their payloads, however many there are.
-- KEYS  1 prefix of every key
-- ARGV  1 most messages per index
-- RETURNS  now, then for each: id, index, and the fields below; longest leased and soonest due first, of a lane the newest
-- RACES  None to win: one step, so that no message is seen in two places.
local prefix = KEYS[1]
--@use time check
local most = whole(ARGV[1], 'most')
local FIELDS = { 'state', 'account', 'attempt', 'maxRetries', 'priority', 'queuedAt', 'wakeAt', 'dueAt', 'startedAt',
  'leaseUntil', 'owner', 'deferredSince', 'replayId' }
local found = { now }
if most < 1 then return found end

local function show(index, ids)
  for _, id in ipairs(ids) do
    local row = redis.call('HMGET', prefix .. 'msg:' .. id, unpack(FIELDS))
    if row[1] then
      for at = 1, #FIELDS do row[at] = row[at] or '' end
      found[#found + 1] = { id, index, unpack(row) }
    end
  end
end

for _, index in ipairs({ 'running', 'retry_wait', 'scheduled' }) do
  show(index, redis.call('ZRANGE', prefix .. 'due:' .. index, 0, most - 1))
end
for _, lane in ipairs({ 'alone', 'high', 'normal', 'low' }) do
  show(lane, redis.call('ZREVRANGE', prefix .. 'waiting:' .. lane, 0, most - 1))
end
return found

-- Note how far every count has come and how much waits, once per interval, whoever asks.
-- KEYS  1 prefix of every key
-- ARGV  1 interval in ms  2 samples kept  3 coarse interval in ms  4 coarse samples kept
-- RETURNS  1, or 0 when this interval has its sample
-- RACES  Many processes ask; looking and noting are one step, so an interval has one sample at most. One that nobody asked
--        in has none: nothing is made up for it.
local prefix = KEYS[1]
--@use time check calendar accepted
local every, keep, coarse_every, coarse_keep = whole(ARGV[1], 'interval'), whole(ARGV[2], 'kept'),
  whole(ARGV[3], 'coarse interval'), whole(ARGV[4], 'coarse kept')
local key, fine, coarse = prefix .. 'series', prefix .. 'series:fine', prefix .. 'series:coarse'
local SET_BACK = 6 -- a clock that went back by more intervals than this makes what was noted worthless

local slot, coarse_slot = math.floor(now / every), math.floor(now / coarse_every)
local last, last_coarse = unpack(redis.call('HMGET', key, 'slot', 'coarse'))
last = tonumber(last) or -1
if last >= slot and last - slot <= SET_BACK then return 0 end
if last > slot then redis.call('DEL', fine, coarse) end
local total, count, today = accepted_ever()

local function whole_text(value) return string.format('%.0f', tonumber(value) or 0) end
local row = { stamp, whole_text(total) }
for _, value in ipairs(redis.call('HMGET', prefix .. 'tally', 'done', 'failed', 'died', 'replayed', 'held', 'lost')) do
  row[#row + 1] = whole_text(value)
end
for _, index in ipairs({ 'waiting:high', 'waiting:normal', 'waiting:low', 'waiting:alone', 'due:retry_wait',
  'due:scheduled', 'due:running', 'outbox' }) do
  row[#row + 1] = whole_text(redis.call('ZCARD', prefix .. index))
end
local line = table.concat(row, ',')
redis.call('HSET', key, 'slot', whole_text(slot), 'day', today, 'counted', whole_text(count), 'accepted', whole_text(total))
redis.call('RPUSH', fine, line)
redis.call('LTRIM', fine, -keep, -1)
if tonumber(last_coarse) ~= coarse_slot then
  redis.call('HSET', key, 'coarse', whole_text(coarse_slot))
  redis.call('RPUSH', coarse, line)
  redis.call('LTRIM', coarse, -coarse_keep, -1)
end

-- How many messages each breaker holds at the end of each minute: a hash that overwrites itself after an hour.
local minute = math.floor(now / 60000)
for _, breaker in ipairs(redis.call('SMEMBERS', prefix .. 'held')) do
  local total, kept = 0, prefix .. 'held:was:' .. breaker
  for _, priority in ipairs({ 'high', 'normal', 'low' }) do
    total = total + redis.call('ZCARD', prefix .. 'held:' .. priority .. ':' .. breaker)
  end
  redis.call('HSET', kept, minute % 60, string.format('%.0f:%.0f', minute, total))
  redis.call('PEXPIRE', kept, 3660000)
end
return 1

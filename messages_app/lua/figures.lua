-- The figures of one instant.
-- KEYS  1 prefix of every key
-- ARGV  1 ms after which due work counts as overdue
-- RETURNS  now, scheduled, retry_wait, running, overdue, outbox size, oldest outbox ms or -1, quarantined, foreign jobs,
--          then for high, normal, low, alone: waiting, oldest wake-up ms or -1
-- RACES  None to win: one script so that the numbers fit each other. Each is O(1) or O(log n).
local prefix = KEYS[1]
--@use time check
local late = now - whole(ARGV[1], 'late')
local function size(index) return redis.call('ZCARD', prefix .. index) end
local function oldest(index) return tonumber(redis.call('ZRANGE', prefix .. index, 0, 0, 'WITHSCORES')[2]) or -1 end
local function overdue(index) return redis.call('ZCOUNT', prefix .. index, '-inf', late) end

local figures = { now, size('due:scheduled'), size('due:retry_wait'), size('due:running'),
  overdue('due:scheduled') + overdue('due:retry_wait') + overdue('due:running'),
  size('outbox'), oldest('outbox'), redis.call('HLEN', prefix .. 'quarantine'), redis.call('LLEN', 'rq:queue:foreign') }
for _, lane in ipairs({ 'high', 'normal', 'low', 'alone' }) do
  figures[#figures + 1] = size('waiting:' .. lane)
  figures[#figures + 1] = oldest('waiting:' .. lane)
end
return figures

-- Raise the lowest epoch of new messages.
-- KEYS  1 prefix of every key
-- ARGV  1 epoch, 0: only ask
-- RETURNS  the lowest epoch that the next new message gets
-- RACES  Reading and writing are one step, so it never falls.
local prefix = KEYS[1]
--@use time check
local wanted = whole(ARGV[1], 'epoch')
local highest = math.max(tonumber(redis.call('GET', prefix .. 'epoch:high')) or 0, now)
if wanted > highest then
  redis.call('SET', prefix .. 'epoch:high', string.format('%.0f', wanted))
  highest = wanted
end
return highest

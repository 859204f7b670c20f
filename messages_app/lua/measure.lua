-- Add the measurements of one process to those of all, once.
-- KEYS  1 prefix of every key
-- ARGV  1 process  2 number of this call, one more for each  3 ms for which the number is remembered, then key, count, …
-- RETURNS  1, or 0 when this call was counted before
-- RACES  A call whose answer was lost is sent again: looking at its number and adding are one step.
local prefix = KEYS[1]
--@use check
local process, number = ARGV[1], whole(ARGV[2], 'number')
local ttl = whole(ARGV[3], 'ttl')
if not string.find(process, '^[%w_.-]+$') then error('BADARG process') end
local key = prefix .. 'measured:of:' .. process
if (tonumber(redis.call('GET', key)) or 0) >= number then return 0 end
for at = 4, #ARGV, 2 do whole(ARGV[at + 1], 'count') end
for at = 4, #ARGV, 2 do redis.call('HINCRBY', prefix .. 'measured', ARGV[at], ARGV[at + 1]) end
redis.call('SET', key, ARGV[2], 'PX', ARGV[3])
return 1

-- Count one request of a client against its limit.
-- KEYS  1 prefix of every key
-- ARGV  1 client  2 limit  3 window ms
-- RETURNS  1 or 0 (refused), requests left, ms until one is (again) free to go
-- RACES  Asking and counting are one step over all web processes: read first and write later lets through twice as many.
local prefix = KEYS[1]
--@use time check rate
local limit, window = whole(ARGV[2], 'limit'), whole(ARGV[3], 'window')
local allowed, remaining, reset = rate(ARGV[1], limit, window)
write_rates()
return { allowed and 1 or 0, remaining, reset }

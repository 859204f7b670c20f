--@TIME
-- The server's clock, in milliseconds. Nobody can pass a time: two hosts never disagree about a lease.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
--@END
local stamp = string.format('%.0f', now) -- handing over a number costs more than handing over a text

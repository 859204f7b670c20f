-- Write one small value, as an acceptance would: a server that refuses this refuses messages, too.
-- KEYS  1 prefix of every key
-- ARGV  1 ms after which the value is forgotten
-- RETURNS  now ms
local prefix = KEYS[1]
--@use time check
-- SET is refused without memory; commands that only free some are not.
redis.call('SET', prefix .. 'probe', stamp, 'PX', whole(ARGV[1], 'ttl'))
return now

-- Take a process that ends off the list of those that are alive.
-- KEYS  1 prefix of every key
-- ARGV  1 name
-- RETURNS  1, or 0 when it was not there
-- RACES  Index and description go together.
local prefix = KEYS[1]
redis.call('HDEL', prefix .. 'presence:about', ARGV[1])
return redis.call('ZREM', prefix .. 'presence', ARGV[1])

-- Put a quarantined outcome back into the outbox.
-- KEYS  1 prefix of every key
-- ARGV  1 id
-- RETURNS  1, or 0 when it was not in quarantine
-- RACES  Out of the one and into the other is one step: an outcome is never in neither.
local prefix = KEYS[1]
--@use time check
local id = identifier(ARGV[1])
if redis.call('HEXISTS', prefix .. 'quarantine', id) == 0 then return 0 end
local outbox = redis.call('HGET', prefix .. 'msg:' .. id, 'outbox')
if outbox and outbox ~= '' then redis.call('ZADD', prefix .. 'outbox', stamp, id) end
redis.call('HDEL', prefix .. 'quarantine', id)
return 1

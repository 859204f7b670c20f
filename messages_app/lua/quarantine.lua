-- Set aside an outcome that MongoDB can never take in this form; the record stays as it is and does not age.
-- KEYS  1 prefix of every key
-- ARGV  1 id  2 epoch  3 why
-- RETURNS  1, or 0 when the message has moved on
-- RACES  Only the epoch that was refused may be set aside, never a replay that began meanwhile.
local prefix = KEYS[1]
--@use time check
local id, epoch, why = identifier(ARGV[1]), ARGV[2], ARGV[3]
local at, outbox = unpack(redis.call('HMGET', prefix .. 'msg:' .. id, 'epoch', 'outbox'))
if at ~= epoch or not outbox or outbox == '' then return 0 end
redis.call('HSET', prefix .. 'quarantine', id, cjson.encode({ epoch = epoch, why = why, at = now }))
redis.call('ZREM', prefix .. 'outbox', id)
return 1

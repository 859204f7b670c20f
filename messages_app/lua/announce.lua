-- Note that a process of ours is alive, and forget those that have not been for a long time.
-- KEYS  1 prefix of every key
-- ARGV  1 name  2 what it says about itself, JSON  3 ms after which a silent process is forgotten
-- RETURNS  now ms
-- RACES  Index and description change together, by the server's clock: hosts with wrong clocks look no less alive.
local prefix = KEYS[1]
--@use time check
local name, forget = ARGV[1], whole(ARGV[3], 'forget')
if name == '' then error('BADARG name') end
local seen, about = prefix .. 'presence', prefix .. 'presence:about'
redis.call('HSET', about, name, ARGV[2])
redis.call('ZADD', seen, now, name)
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', seen, '-inf', now - forget, 'LIMIT', 0, 100)) do
  redis.call('ZREM', seen, gone)
  redis.call('HDEL', about, gone)
end
return now

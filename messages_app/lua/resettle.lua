-- Put an ended message's outcome up for recording again (MongoDB was restored from a backup and has forgotten it).
-- KEYS  1 prefix of every key
-- ARGV  1 id  2 epoch
-- RETURNS  1, or 0 when no ended message stands at that epoch
-- RACES  State, account and expiry change together: the record must not vanish before its letter has the outcome.
local prefix = KEYS[1]
--@use time check account outcome
local id, epoch = identifier(ARGV[1]), ARGV[2]
local key, record = prefix .. 'msg:' .. id, read(id, 'state', 'epoch', 'account', 'replayId')
if record.epoch ~= epoch then return 0 end
if record.state == 'dead' then
  redis.call('HSET', key, 'state', 'dead_pending', 'outbox', 'death')
  count(record.account, 'dead', -1)
  count(record.account, 'reopenedDead', 1)
  count(record.account, 'open', 1)
elseif record.state == 'done' and record.replayId ~= '' then
  redis.call('HSET', key, 'outbox', 'settle')
elseif record.state ~= 'dead_pending' then
  return 0
end
redis.call('ZADD', prefix .. 'outbox', stamp, id)
for _, part in ipairs({ 'msg:', 'story:', 'body:', 'run:' }) do redis.call('PERSIST', prefix .. part .. id) end
write_accounts()
return 1

-- Take expired accounts out of the index, and types that have no account any more out of the types.
-- KEYS  1 prefix of every key
-- RETURNS  how many accounts were taken out
-- RACES  An account that comes back, by a message that ends after 400 days, enters the index again by the script that
--        counts it. Looking and removing are one step, so neither undoes the other.
local prefix = KEYS[1]
--@use time calendar account
local oldest = day_of(now - ACCOUNT_TTL_S * 1000)
local gone, types = 0, {}
for _, account in ipairs(redis.call('SMEMBERS', prefix .. 'acct:index')) do
  if string.sub(account, 1, 8) <= oldest and redis.call('EXISTS', prefix .. 'acct:' .. account) == 0 then
    redis.call('SREM', prefix .. 'acct:index', account)
    gone = gone + 1
  else
    types[string.sub(account, 10)] = true
  end
end
for _, type in ipairs(redis.call('SMEMBERS', prefix .. 'acct:types')) do
  if not types[type] then redis.call('SREM', prefix .. 'acct:types', type) end
end
return gone

-- Put accounts right that an earlier version left below zero: each message that one lacks enters it as accepted.
-- KEYS  1 prefix of every key
-- RETURNS  how many accounts were below zero
-- RACES  Reading and writing are one step, so that no outcome between the two is lost.
local prefix = KEYS[1]
--@use account
local FIELDS = { 'accepted', 'done', 'dead', 'open' }
local below = 0
for _, account in ipairs(redis.call('SMEMBERS', prefix .. 'acct:index')) do
  local is_below = false
  for at, value in ipairs(redis.call('HMGET', prefix .. 'acct:' .. account, unpack(FIELDS))) do
    if (tonumber(value) or 0) < 0 then
      count(account, FIELDS[at], 0)
      is_below = true
    end
  end
  if is_below then below = below + 1 end
end
write_accounts()
return below

-- Add the accounts of days that are over to sums that outlive them: counters must not fall when an account expires.
-- KEYS  1 prefix of every key
-- ARGV  1 cursor: 0 at first, then what the last call returned  2 accounts to look at
-- RETURNS  the next cursor; 0 when every account was looked at
-- RACES  The sum and what the account says of it change together, so an account that changes later is carried again by
--        the difference. Accounts of `:until` and later are read one by one (counted.lua). Before it moves, those that it
--        passes are carried in the same step.
local prefix = KEYS[1]
--@use time check calendar counted
local cursor, limit = ARGV[1], whole(ARGV[2], 'limit')
if not string.find(cursor, '^%d+$') then error('BADARG cursor') end
local key, index = prefix .. 'carried', prefix .. 'acct:index'
local yesterday = day_of(now - 86400000)

local function carry(account)
  local counts, carried = counted_in(account)
  if not counts or text_of(counts) == text_of(carried) then return end
  local type = string.sub(account, 10)
  local sum = numbers_of(redis.call('HGET', key, type))
  add_new(sum, counts, carried)
  redis.call('HSET', key, type, text_of(sum)) -- at once: an account that cannot be read must not cost another its sum
  for at, field in ipairs(CARRIED) do
    if counts[at] > carried[at] then redis.call('HSET', prefix .. 'acct:' .. account, field, counts[at]) end
  end
end

local closed = redis.call('HGET', key, ':until') or ''
if closed < yesterday then -- once a day; the first time for every day there is
  for _, account in ipairs(redis.call('SMEMBERS', index)) do
    local day = string.sub(account, 1, 8)
    if day >= closed and day < yesterday then carry(account) end
  end
  closed = yesterday
  redis.call('HSET', key, ':until', closed)
end
local page = redis.call('SSCAN', index, cursor, 'COUNT', limit)
for _, account in ipairs(page[2]) do
  if string.sub(account, 1, 8) < closed then carry(account) end
end
return page[1]

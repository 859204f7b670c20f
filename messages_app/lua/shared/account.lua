-- accepted = done + open + dead, per day and type of acceptance ("yyyymmdd:type"), at every instant: moved by the script
-- that moves the message. Changes are added up first and written once per account, however many messages a call
-- carries.
-- No field falls below zero. An account that lacks a message that leaves one of its fields has expired, or Redis was
-- emptied or restored without it: the message enters here as an imported one does, and the sum stays right.
local ACCOUNT_TTL_S = 400 * 86400
local accounts = {}

local function count(account, field, change)
  local changes = accounts[account] or {}
  changes[field] = (changes[field] or 0) + change
  accounts[account] = changes
end

local function enter(key, field, stands, change)
  local right = math.max(0, math.max(0, stands - change) + change)
  redis.call('HINCRBY', key, 'accepted', right - stands)
  redis.call('HSET', key, field, right)
end

local function write_accounts()
  for account, changes in pairs(accounts) do
    local key = prefix .. 'acct:' .. account
    for field, change in pairs(changes) do
      local stands = redis.call('HINCRBY', key, field, change)
      if stands == change then -- it held nothing: it may be new
        redis.call('EXPIRE', key, ACCOUNT_TTL_S)
        redis.call('SADD', prefix .. 'acct:index', account)
        redis.call('SADD', prefix .. 'acct:types', string.sub(account, 10))
      end
      if math.min(stands, stands - change) < 0 then enter(key, field, stands, change) end --[g] no field below zero
    end
  end
end

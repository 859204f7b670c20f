-- accepted = done + open + dead, per day and type of acceptance ("yyyymmdd:type"), at every instant: moved by the script
-- that moves the message. Changes are added up first and written once per account, however many messages a call
-- carries.
local ACCOUNT_TTL_S = 400 * 86400
local accounts = {}

local function count(account, field, change)
  local changes = accounts[account] or {}
  changes[field] = (changes[field] or 0) + change
  accounts[account] = changes
end

local function write_accounts()
  for account, changes in pairs(accounts) do
    local key = prefix .. 'acct:' .. account
    for field, change in pairs(changes) do
      if redis.call('HINCRBY', key, field, change) == change then -- it held nothing: it may be new
        redis.call('EXPIRE', key, ACCOUNT_TTL_S)
        redis.call('SADD', prefix .. 'acct:index', account)
        redis.call('SADD', prefix .. 'acct:types', string.sub(account, 10))
      end
    end
  end
end

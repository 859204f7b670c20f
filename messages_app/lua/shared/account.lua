-- accepted = done + open + dead, per day and type of acceptance, at every instant: moved by the script that moves
-- the message [g]. Changes are added up first and written once per account, however many messages a call carries.
local ACCOUNT_TTL_S = 400 * 86400
local accounts = {}

local function count(day, type, field, change)
  local name = day .. ':' .. type
  local account = accounts[name] or {}
  account[field] = (account[field] or 0) + change
  accounts[name] = account
end

local function write_accounts()
  for name, account in pairs(accounts) do
    for field, change in pairs(account) do
      redis.call('HINCRBY', prefix .. 'acct:' .. name, field, change)
    end
    redis.call('EXPIRE', prefix .. 'acct:' .. name, ACCOUNT_TTL_S)
    redis.call('SADD', prefix .. 'acct:index', name)
  end
end

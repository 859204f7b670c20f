-- Accept a message once: the record, its payload, its wake-up and its account, or what already stands in its place.
-- KEYS  1 prefix of every key (one node: the others are built from it)
-- ARGV  1 id  2 type  3 body  4 sha256 hex  5 priority  6 story: what was accepted, one line of JSON  7 not before ms,
--       or empty  8 max retries  9 accept token  10 rate client, or empty  11 rate limit  12 rate window ms
--       13 client that submits: kept longer than the story
-- RETURNS  status, state, type, queuedAt ms, rate remaining, rate reset ms (the last two -1 without a limit)
-- RACES  Two requests with one id, or one repeated after a lost answer, must not make two records, two wake-ups or
--        two counts; and a message must never stand in the ledger without its wake-up.
local prefix = KEYS[1]
--@use time check calendar wake account rate
local id, type, body, sha256, priority = identifier(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local not_before = ARGV[7] ~= '' and whole(ARGV[7], 'not before') or 0
local token = ARGV[9]
whole(ARGV[8], 'max retries')
one_of(priority, { high = true, normal = true, low = true }, 'priority')
if type == '' or token == '' then error('BADARG type or token') end

local key = prefix .. 'msg:' .. id
local state, old_token, old_sha256, old_account, old_queued_at = unpack(
  redis.call('HMGET', key, 'state', 'acceptToken', 'sha256', 'account', 'queuedAt'))
local old_type = old_account and string.sub(old_account, 10)
if state and old_token == token then return { 'accepted', state, old_type, old_queued_at, -1, -1 } end

local remaining, reset = -1, -1
if ARGV[10] ~= '' then
  local allowed
  allowed, remaining, reset = rate(ARGV[10], whole(ARGV[11], 'rate limit'), whole(ARGV[12], 'rate window'))
  if not allowed then return { 'throttled', '', '', 0, remaining, reset } end
end

if state then --[g] key absent
  local same = old_sha256 == sha256
  -- A replay of a forgotten message has no digest: its bytes are compared.
  if not old_sha256 then same = old_type == type and redis.call('GET', prefix .. 'body:' .. id) == body end
  return { same and 'duplicate' or 'conflict', state, old_type, old_queued_at, remaining, reset }
end

-- Never a count that starts again: an id accepted anew after it was forgotten gets an epoch above its former ones.
local highest = tonumber(redis.call('GET', prefix .. 'epoch:high')) or 0
local epoch = stamp
if highest > now then epoch = string.format('%.0f', highest) end --[g] epoch from the clock
local queued = not_before <= now
if now > highest then redis.call('SET', prefix .. 'epoch:high', epoch) end
local account = day_of(now) .. ':' .. type
redis.call('HSET', key, 'state', queued and 'queued' or 'scheduled', 'epoch', epoch, 'attempt', '0',
  'priority', priority, 'account', account, 'maxRetries', ARGV[8], 'queuedAt', stamp, 'sha256', sha256,
  'acceptToken', token, 'client', ARGV[13], 'wakes', queued and '1' or '0', 'wakeAt', stamp)
redis.call('MSET', prefix .. 'story:' .. id, ARGV[6], prefix .. 'body:' .. id, body)
if queued then
  wake(id, epoch, '0', priority, '1')
else
  redis.call('HSET', key, 'dueAt', ARGV[7])
  redis.call('ZADD', prefix .. 'due:scheduled', ARGV[7], id)
end
count(account, 'accepted', 1)
count(account, 'open', 1)
write_accounts() --[g] accept: the account in the same script
return { 'accepted', queued and 'queued' or 'scheduled', type, now, remaining, reset }

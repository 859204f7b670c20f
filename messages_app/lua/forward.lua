-- Start one run of a dead message under the epoch that the claim of its letter drew.
-- KEYS  1 prefix of every key
-- ARGV  1 id  2 epoch  3 deadline ms  4 force (1 or 0)  5 closedEpoch of the letter at its claim  6 type  7 body
--       8 edited (1 or 0)  9 edited body  10 priority  11 story: what was accepted, one line of JSON  12 queuedAt ms
--       13 account day, or empty  14 replay id  15 failed runs so far  16 done or dead: how a forgotten message ended
--       17 client that submitted
-- RETURNS  status, state of the record in the way (or empty)
-- RACES  An order may arrive twice, or after its sender gave up: repetition, ban and deadline are judged here, in this
--        order, because only here they exclude each other.
local prefix = KEYS[1]
--@use time check calendar wake account
local id, epoch = identifier(ARGV[1]), whole(ARGV[2], 'epoch')
local deadline, force, death_seen = whole(ARGV[3], 'deadline'), ARGV[4] == '1', whole(ARGV[5], 'death seen')
local type, body, edited, priority = ARGV[6], ARGV[7], ARGV[8] == '1', ARGV[10]
local replay_id, prior_runs, ended = ARGV[14], whole(ARGV[15], 'prior runs'), ARGV[16]
whole(ARGV[12], 'queued at')
one_of(priority, { high = true, normal = true, low = true }, 'priority')
one_of(ended, { done = true, dead = true }, 'end')
if type == '' or replay_id == '' then error('BADARG type or replay id') end

local key = prefix .. 'msg:' .. id
local state, old_epoch, outbox, wakes, old_runs, account = unpack(
  redis.call('HMGET', key, 'state', 'epoch', 'outbox', 'wakes', 'priorRuns', 'account'))
old_epoch = tonumber(old_epoch) or 0
local void = tonumber(redis.call('GET', prefix .. 'void:' .. id)) or 0
local letter_has_it = state == 'dead_pending' and old_epoch <= death_seen --[g] only `drained` is missing
local OPEN = { queued = true, scheduled = true, running = true, retry_wait = true, dead_pending = true }

if old_epoch == epoch then return { 'forwarded', '' } end --[g] epoch equal
if void >= epoch then return { 'voided', '' } end --[g] void mark
if now > deadline then return { 'too_late', '' } end --[g] deadline
if old_epoch > epoch then return { 'superseded', state } end --[g] epoch higher
if OPEN[state] and not letter_has_it then return { 'busy', state } end --[g] open
if state == 'done' and (outbox or '') ~= '' then return { 'busy', state } end --[g] outcome not recorded yet
if state == 'done' and not force then return { 'already_done', state } end --[g] done, without force

if not account and ARGV[13] == '' then -- an imported letter: its message is accepted here and now
  account = day_of(now) .. ':' .. type
  count(account, 'accepted', 1)
  count(account, 'open', 1)
elseif not letter_has_it then
  account = account or ARGV[13] .. ':' .. type
  if state then ended = state == 'done' and 'done' or 'dead' end
  count(account, ended, -1)
  count(account, ended == 'done' and 'reopenedDone' or 'reopenedDead', 1)
  count(account, 'open', 1)
end

wakes = (tonumber(wakes) or 0) + 1
redis.call('HSET', key, 'state', 'queued', 'epoch', ARGV[2], 'attempt', '0', 'priority', priority, 'account', account,
  'maxRetries', 0, 'queuedAt', ARGV[12], 'wakes', wakes, 'wakeAt', stamp, 'replayId', replay_id,
  'client', ARGV[17],
  'edited', edited and 1 or 0, 'priorRuns', math.max(prior_runs, tonumber(old_runs) or 0))
-- What belongs to the former epoch. The fence stays: no later one may be below it.
redis.call('HDEL', key, 'dueAt', 'leaseUntil', 'startedAt', 'finishedAt', 'recoveries', 'deferrals', 'deferredSince',
  'owner', 'outbox', 'lastError', 'result')
redis.call('SET', prefix .. 'story:' .. id, ARGV[11])
redis.call('SET', prefix .. 'body:' .. id, body)
if edited then redis.call('SET', prefix .. 'run:' .. id, ARGV[9]) else redis.call('DEL', prefix .. 'run:' .. id) end
redis.call('PERSIST', key)
redis.call('ZREM', prefix .. 'outbox', id)
redis.call('HDEL', prefix .. 'quarantine', id)
wake(id, ARGV[2], '0', priority, wakes)
write_accounts() --[g] forward: the account in the same script
return { 'forwarded', '' }

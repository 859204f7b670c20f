-- Start one run of a dead message under the epoch that the claim of its letter drew.
-- KEYS  1 prefix of every key
-- ARGV  1 id  2 epoch  3 deadline ms  4 force (1 or 0)  5 closedEpoch of the letter at its claim  6 type  7 body
--       8 edited (1 or 0)  9 edited body  10 version  11 priority  12 source  13 client  14 tags JSON  15 queuedAt ms
--       16 account day, or empty  17 replay id  18 batch id, or empty  19 failed runs so far
-- RETURNS  status, state of the record in the way (or empty)
-- RACES  An order may arrive twice, or after its sender gave up: repetition, ban and deadline are judged here, in this
--        order, because only here they exclude each other.
local prefix = KEYS[1]
--@use time check calendar wake account
local id, epoch = identifier(ARGV[1]), whole(ARGV[2], 'epoch')
local deadline, force, death_seen = whole(ARGV[3], 'deadline'), ARGV[4] == '1', whole(ARGV[5], 'death seen')
local type, body, edited, priority = ARGV[6], ARGV[7], ARGV[8] == '1', ARGV[11]
local version, queued_at = whole(ARGV[10], 'version'), whole(ARGV[15], 'queued at')
local prior_runs = whole(ARGV[19], 'prior runs')
one_of(priority, { high = true, normal = true, low = true }, 'priority')
if type == '' or ARGV[17] == '' then error('BADARG type or replay id') end

local key = prefix .. 'msg:' .. id
local state, old_epoch, outbox, fence, wakes, old_runs, old_day, old_sha256 = unpack(
  redis.call('HMGET', key, 'state', 'epoch', 'outbox', 'fence', 'wakes', 'priorRuns', 'acctDay', 'sha256'))
old_epoch = tonumber(old_epoch) or 0
local void = tonumber(redis.call('GET', prefix .. 'void:' .. id)) or 0
local drain_missing = state == 'dead_pending' and old_epoch <= death_seen -- the letter already has that death
local OPEN = { queued = true, scheduled = true, running = true, retry_wait = true, dead_pending = true }

if old_epoch == epoch then return { 'forwarded', '' } end --[g] epoch equal
if void >= epoch then return { 'voided', '' } end --[g] void mark
if now > deadline then return { 'too_late', '' } end --[g] deadline
if old_epoch > epoch then return { 'superseded', state } end --[g] epoch higher
if OPEN[state] and not drain_missing then return { 'busy', state } end --[g] open
if state == 'done' and (outbox or '') ~= '' then return { 'busy', state } end --[g] outcome not recorded yet
if state == 'done' and not force then return { 'already_done', state } end

local day = old_day or ARGV[16]
if day == '' then -- an imported letter: its message is accepted here and now
  day = day_of(now)
  count(day, type, 'accepted', 1)
  count(day, type, 'open', 1)
elseif not drain_missing then
  count(day, type, state == 'done' and 'done' or 'dead', -1)
  count(day, type, 'open', 1)
end

wakes = (tonumber(wakes) or 0) + 1
redis.call('HSET', key, 'state', 'queued', 'epoch', epoch, 'attempt', 0, 'fence', fence or 0, 'closedFence', '',
  'leaseUntil', '', 'dueAt', '', 'startedAt', '', 'finishedAt', '', 'recoveries', 0, 'deferrals', 0,
  'deferredSince', '', 'type', type, 'sha256', old_sha256 or '', 'priority', priority, 'source', ARGV[12],
  'client', ARGV[13], 'tags', ARGV[14], 'queuedAt', queued_at, 'acctDay', day, 'edited', edited and 1 or '',
  'version', version, 'maxRetries', 0, 'replayId', ARGV[17], 'batchId', ARGV[18], 'deathSeen', death_seen,
  'priorRuns', math.max(prior_runs, tonumber(old_runs) or 0), 'owner', '', 'outbox', '', 'lastError', '',
  'attempts', '', 'result', '', 'wakes', wakes, 'wakeAt', now)
redis.call('PERSIST', key)
redis.call('SET', prefix .. 'body:' .. id, body)
if edited then redis.call('SET', prefix .. 'run:' .. id, ARGV[9]) else redis.call('DEL', prefix .. 'run:' .. id) end
redis.call('ZREM', prefix .. 'outbox', id)
redis.call('HDEL', prefix .. 'quarantine', id)
wake(id, epoch, 0, priority, wakes)
write_accounts()
return { 'forwarded', '' }

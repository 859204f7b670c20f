-- Start one run of each of these dead messages, under the epoch that the claim of its letter drew.
-- KEYS  1 prefix of every key
-- ARGV  for each message: id, epoch, deadline ms, force (1 or 0), closedEpoch of the letter at its claim, newest epoch
--       that the letter knew of then, type, body, edited (1 or 0), edited body, priority, story (the accepted fields, one
--       line of JSON), queuedAt ms, account day or empty, replay id, failed runs so far, done or dead (how a forgotten
--       message ended), client that submitted, alone (1 or 0: it may be poison, so it runs alone and its first loss is
--       its last)
-- RETURNS  for each message two values: status, state of the record in the way (or empty); or refused (it cannot be
--          written) and why
-- RACES  An order may arrive twice, or after its sender gave up: repetition, ban and deadline are judged here, in this
--        order, because only here they exclude each other.
local prefix = KEYS[1]
--@use time check calendar wake account alone
local STEP, MOST = 19, 250
if #ARGV == 0 or #ARGV % STEP ~= 0 or #ARGV > MOST * STEP then error('BADARG number of messages') end -- more do not fit into one unpack
local OPEN = { queued = true, scheduled = true, running = true, retry_wait = true, dead_pending = true }
local LANES, FINAL = { high = true, normal = true, low = true }, { done = true, dead = true }
local FLAGS = { ['0'] = true, ['1'] = true }

-- Check the arguments of a message, and answer its record.
local function look(id, epoch, deadline, force, death_seen, epoch_seen, type, edited, priority, queued_at, replay_id,
    prior_runs, ended, alone)
  identifier(id)
  whole(epoch, 'epoch')
  whole(deadline, 'deadline')
  whole(death_seen, 'death seen')
  whole(epoch_seen, 'epoch seen')
  whole(queued_at, 'queued at')
  whole(prior_runs, 'prior runs')
  one_of(force, FLAGS, 'force')
  one_of(edited, FLAGS, 'edited')
  one_of(alone, FLAGS, 'alone')
  one_of(priority, LANES, 'priority')
  one_of(ended, FINAL, 'end')
  if type == '' or replay_id == '' then error('BADARG type or replay id') end
  return redis.call('HMGET', prefix .. 'msg:' .. id, 'state', 'epoch', 'outbox', 'wakes', 'priorRuns', 'account', 'edited',
    'replayId')
end

-- Whether the order starts a run: nil, or the status that says why not.
local function judge(state, old_epoch, outbox, is_replay, letter_has_it, epoch, epoch_seen, void, deadline, force)
  -- Letters that are claimed together draw one epoch, which may be the time at which intake accepted one of them anew.
  if old_epoch == epoch and is_replay then return 'forwarded', '' end --[g] epoch equal
  if void >= epoch then return 'voided', '' end --[g] void mark
  if now > deadline then return 'too_late', '' end --[g] deadline
  -- Not only above `epoch`: their epoch is above the fences of all of them.
  if old_epoch > epoch_seen then return 'superseded', state end --[g] epoch higher
  if OPEN[state] and not letter_has_it then return 'busy', state end --[g] open
  if state == 'done' and (outbox or '') ~= '' then return 'busy', state end --[g] outcome not recorded yet
  if state == 'done' and not force then return 'already_done', state end --[g] done, without force
  return nil
end

local answers, texts, runs_gone, started, lanes, waiting = {}, {}, {}, {}, {}, {}
local voids = {}
for at = 1, #ARGV, STEP do voids[#voids + 1] = prefix .. 'void:' .. ARGV[at] end
voids = redis.call('MGET', unpack(voids))

local function count_again(account, state, ended, day, type, letter_has_it)
  if not account and day == '' then -- an imported letter: its message is accepted here and now
    account = day_of(now) .. ':' .. type
    count(account, 'accepted', 1)
    count(account, 'open', 1)
  elseif not letter_has_it then
    account = account or day .. ':' .. type
    if state then ended = state == 'done' and 'done' or 'dead' end
    count(account, ended, -1)
    count(account, ended == 'done' and 'reopenedDone' or 'reopenedDead', 1)
    count(account, 'open', 1)
  end
  return account
end

local function start(id, epoch, body, edited, edited_body, priority, story, queued_at, replay_id, prior_runs, client,
    alone, old)
  local key, wakes = prefix .. 'msg:' .. id, (tonumber(old.wakes) or 0) + 1
  redis.call('HSET', key, 'state', 'queued', 'epoch', epoch, 'attempt', '0', 'priority', priority, 'account', old.account,
    'maxRetries', '0', 'queuedAt', queued_at, 'wakes', wakes, 'wakeAt', stamp, 'replayId', replay_id, 'client', client,
    'edited', edited, 'priorRuns', math.max(tonumber(prior_runs), tonumber(old.runs) or 0))
  if old.state then
    -- What belongs to the former epoch. The fence stays: no later one may be below it.
    redis.call('HDEL', key, 'dueAt', 'leaseUntil', 'startedAt', 'finishedAt', 'recoveries', 'deferrals', 'deferredSince',
      'heldBy', 'owner', 'outbox', 'lastError', 'result', 'alone', 'ran')
    redis.call('PERSIST', key)
  end
  local lane = priority
  if alone == '1' then
    redis.call('HSET', key, 'recoveries', LOSSES_BEFORE_ALONE, 'alone', '1')
    lane = lane_of(priority, LOSSES_BEFORE_ALONE)
  end
  local written = #texts
  texts[written + 1], texts[written + 2] = prefix .. 'story:' .. id, story
  texts[written + 3], texts[written + 4] = prefix .. 'body:' .. id, body
  if edited == '1' then
    texts[written + 5], texts[written + 6] = prefix .. 'run:' .. id, edited_body
  elseif old.edited ~= '0' then
    runs_gone[#runs_gone + 1] = prefix .. 'run:' .. id
  end
  started[#started + 1] = id
  if not lanes[lane] then lanes[lane], waiting[lane] = {}, {} end
  table.insert(lanes[lane], job_of(id, epoch, '0', wakes))
  table.insert(waiting[lane], stamp)
  table.insert(waiting[lane], id)
end

for at = 1, #ARGV, STEP do
  local id, epoch, deadline, force, death_seen, epoch_seen, type, body, edited, edited_body, priority, story, queued_at,
    day, replay_id, prior_runs, ended, client, alone = unpack(ARGV, at, at + STEP - 1)
  local record, refused = apply_alone(look, id, epoch, deadline, force, death_seen, epoch_seen, type, edited, priority,
    queued_at, replay_id, prior_runs, ended, alone)
  local status, in_the_way = 'refused', refused
  if not refused then
    local state, old_epoch, account = record[1], tonumber(record[2]) or 0, record[6]
    death_seen = tonumber(death_seen)
    local letter_has_it = state == 'dead_pending' and old_epoch <= death_seen --[g] only `drained` is missing
    status, in_the_way = judge(state, old_epoch, record[3], (record[8] or '') ~= '', letter_has_it, tonumber(epoch),
      tonumber(epoch_seen), tonumber(voids[(at - 1) / STEP + 1]) or 0, tonumber(deadline), force == '1')
    if not status then
      account = count_again(account, state, ended, day, type, letter_has_it)
      start(id, epoch, body, edited, edited_body, priority, story, queued_at, replay_id, prior_runs, client, alone,
        { state = state, wakes = record[4], runs = record[5], account = account, edited = record[7] })
      status, in_the_way = 'forwarded', ''
    end
  end
  answers[#answers + 1] = status
  answers[#answers + 1] = in_the_way
end

if #started > 0 then
  redis.call('MSET', unpack(texts))
  if #runs_gone > 0 then redis.call('DEL', unpack(runs_gone)) end
  redis.call('ZREM', prefix .. 'outbox', unpack(started))
  redis.call('HDEL', prefix .. 'quarantine', unpack(started))
  for lane, jobs in pairs(lanes) do
    redis.call('RPUSH', 'rq:queue:' .. lane, unpack(jobs))
    redis.call('ZADD', prefix .. 'waiting:' .. lane, unpack(waiting[lane]))
  end
  ring()
end
write_accounts() --[g] forward: the account in the same script
return answers

-- Accept messages, each once: record, payload, wake-up and account, or return what its id already has.
-- KEYS  1 prefix of every key (one node: the others are built from it)
-- ARGV  for each message: id, type, body, sha256 hex, priority, story (the accepted fields, one line of JSON), not before ms
--       or empty, max retries, accept token, client that submits (kept longer than the story), rate client or empty,
--       rate limit, rate window ms
-- RETURNS  for each message six values: status, state, queuedAt ms, rate remaining, rate reset ms (the last two -1 without a
--          limit), type; or refused (it cannot be written) and, as type, why
-- RACES  Two requests with one id, or one repeated after a lost answer, must not make two records, two wake-ups or
--        two counts; and the ledger must never have a message without its wake-up.
local prefix = KEYS[1]
--@use time check calendar wake account rate alone
local STEP = 13
if #ARGV % STEP ~= 0 or #ARGV > 500 * STEP then error('BADARG number of messages') end -- the maximum of unpack

-- Check the arguments of a message, and return what the ledger has under its id.
local function look(id, type, priority, not_before, max_retries, token, client, limit, window)
  identifier(id)
  if not_before ~= '' then whole(not_before, 'not before') end
  whole(max_retries, 'max retries')
  if priority ~= 'normal' and priority ~= 'high' and priority ~= 'low' then error('BADARG priority') end
  if type == '' or token == '' then error('BADARG type or token') end
  if client ~= '' and whole(limit, 'rate limit') * whole(window, 'rate window') == 0 then error('BADARG rate') end
  return redis.call('HMGET', prefix .. 'msg:' .. id, 'state', 'acceptToken', 'sha256', 'account', 'queuedAt')
end

local answers, said, texts, written = { nil, nil, nil, nil, nil, nil }, 0, { nil, nil, nil, nil }, 0
local lanes, waiting, scheduled = {}, {}, nil
local epoch, raised, today
local account, alike -- messages of one account that follow each other are counted together
for at = 1, #ARGV, STEP do
  local id, type, body, sha256, priority, story, not_before, max_retries, token, client, rate_client, limit, window =
    unpack(ARGV, at, at + STEP - 1)
  local status, state, queued_at, remaining, reset = 'refused', '', 0, -1, -1
  repeat -- once: `break` ends the message
    local known, why = apply_alone(look, id, type, priority, not_before, max_retries, token, rate_client, limit, window)
    if why then
      type = why
      break
    end
    local old_state, old_type = known[1], known[4] and string.sub(known[4], 10)
    if old_state and known[2] == token then
      status, state, queued_at, type = 'accepted', old_state, known[5], old_type
      break
    end

    if rate_client ~= '' then
      local allowed, why, left, ms = apply_alone(rate, rate_client, tonumber(limit), tonumber(window))
      if why then
        type = why
        break
      end
      remaining, reset = left, ms
      if not allowed then
        status = 'throttled'
        break
      end
    end

    if old_state then --[g] key absent
      local same = known[3] == sha256
      -- A replay of a forgotten message has no digest: its bytes are compared.
      if not known[3] then same = old_type == type and redis.call('GET', prefix .. 'body:' .. id) == body end
      status, state, queued_at, type = same and 'duplicate' or 'conflict', old_state, known[5], old_type
      break
    end

    -- Never a count that starts again: an id accepted again after it was forgotten gets an epoch above its former ones.
    if not epoch then
      local highest = tonumber(redis.call('GET', prefix .. 'epoch:high')) or 0
      epoch, raised, today = stamp, now > highest, day_of(now)
      if highest > now then epoch = string.format('%.0f', highest) end --[g] epoch from the clock
    end
    local queued = not_before == '' or tonumber(not_before) <= now
    if queued then
      local job = job_of(id, epoch, '0', '1')
      local jobs, index = lanes[priority], waiting[priority]
      if jobs then
        local size = #jobs
        jobs[size + 1], index[2 * size + 1], index[2 * size + 2] = job, stamp, id
      else
        lanes[priority], waiting[priority] = { job }, { stamp, id }
      end
    end
    status, state, queued_at = 'accepted', queued and 'queued' or 'scheduled', stamp
    local its_account = today .. ':' .. type
    redis.call('HSET', prefix .. 'msg:' .. id, 'state', state, 'epoch', epoch, 'attempt', '0', 'priority', priority,
      'account', its_account, 'maxRetries', max_retries, 'queuedAt', stamp, 'sha256', sha256, 'acceptToken', token,
      'client', client, 'wakes', queued and '1' or '0', 'wakeAt', stamp)
    if not queued then
      redis.call('HSET', prefix .. 'msg:' .. id, 'dueAt', not_before)
      scheduled = scheduled or {}
      scheduled[#scheduled + 1] = not_before
      scheduled[#scheduled + 1] = id
    end
    texts[written + 1], texts[written + 2] = prefix .. 'story:' .. id, story
    texts[written + 3], texts[written + 4] = prefix .. 'body:' .. id, body
    written = written + 4
    if its_account == account then
      alike = alike + 1
    else
      if account then
        count(account, 'accepted', alike)
        count(account, 'open', alike)
      end
      account, alike = its_account, 1
    end
  until true
  answers[said + 1], answers[said + 2], answers[said + 3] = status, state, queued_at
  answers[said + 4], answers[said + 5], answers[said + 6] = remaining, reset, type
  said = said + 6
end

write_rates()
if account then
  count(account, 'accepted', alike)
  count(account, 'open', alike)
  if raised then redis.call('SET', prefix .. 'epoch:high', epoch) end
  redis.call('MSET', unpack(texts))
  local rings = false
  for lane, jobs in pairs(lanes) do
    local length = redis.call('RPUSH', 'rq:queue:' .. lane, unpack(jobs))
    rings = rings or length - #jobs < BELL_MAX -- behind others, a message has its turn after theirs
    redis.call('ZADD', prefix .. 'waiting:' .. lane, unpack(waiting[lane]))
  end
  if scheduled then redis.call('ZADD', prefix .. 'due:scheduled', unpack(scheduled)) end
  if rings then ring() end
end
write_accounts() --[g] accept: the account in the same script
return answers

-- End running messages well. A replay's end goes to the outbox; any other record starts to age.
-- KEYS  1 prefix of every key
-- ARGV  1 ms a record is kept  2 ms its payload and story are kept, then for each message: id, fence, result JSON or empty,
--       attempt (its JSON, a line of the story; or, for a message that is no replay, its start and end in ms)
-- RETURNS  for each message: applied, to_outbox TIME (applied then, and the outbox has something new), already, stale,
--          refused (it cannot be written)
-- RACES  A worker that lost its lease must not end what another runs, a repetition must not count twice, and no record
--        may be done without its account or, for a replay, without its place in the outbox.
local prefix = KEYS[1]
--@use time check account outcome alone tally each
local record_ttl, body_ttl = ARGV[1], whole(ARGV[2], 'body ttl')
local payload_ends = now + math.min(whole(record_ttl, 'record ttl'), body_ttl)
local plain = {} -- messages that are no replays

local function complete(id, fence, result, attempt)
  local record = read(id, 'state', 'fence', 'account', 'replayId')
  local verdict = judge(record, fence)
  if verdict ~= 'applied' then return verdict end
  local key = prefix .. 'msg:' .. id
  if string.byte(attempt) == 123 then -- '{'
    tell(id, attempt)
    attempt = ''
  end
  if result == '' then
    redis.call('HSET', key, 'state', 'done', 'finishedAt', stamp, 'ran', attempt)
  else
    redis.call('HSET', key, 'state', 'done', 'finishedAt', stamp, 'ran', attempt, 'result', result)
  end
  ended[#ended + 1] = id
  count(record.account, 'done', 1)
  count(record.account, 'open', -1)
  tally('done')
  if record.replayId ~= '' then --[g] nothing expires before the letter has its outcome
    tally('replayed')
    redis.call('HSET', key, 'outbox', 'settle')
    redis.call('ZADD', prefix .. 'outbox', stamp, id)
    return 'to_outbox ' .. stamp
  end
  redis.call('PEXPIRE', key, record_ttl)
  plain[#plain + 1] = id
  return 'applied'
end

local verdicts = apply_each(complete, 3, 4)
-- Their payloads and stories: expire.lua deletes them. A time of its own for each key was a sixth of the cost of a message.
if #plain > 0 then
  redis.call('RPUSH', prefix .. 'ended', string.format('%.0f', payload_ends) .. ' ' .. stamp .. ' ' .. table.concat(plain, ' '))
end
write_accounts() --[g] complete: the account in the same script
return verdicts

-- End running messages well. A replay's end goes to the outbox; any other record starts to age.
-- KEYS  1 prefix of every key
-- ARGV  1 ms a record is kept  2 ms its payload and story are kept, then for each message: id, fence, result JSON, attempt JSON
-- RETURNS  for each message: applied, to_outbox TIME (applied then, and the outbox has something new), already, stale,
--          refused (it cannot be written)
-- RACES  A worker that lost its lease must not end what another runs, a repetition must not count twice, and no record
--        may be done without its account or, for a replay, without its place in the outbox.
local prefix = KEYS[1]
--@use time check account outcome alone tally each
local record_ttl, body_ttl = ARGV[1], ARGV[2]
whole(record_ttl, 'record ttl')
whole(body_ttl, 'body ttl')

local function complete(id, fence, result, attempt)
  local record = read(id, 'state', 'fence', 'account', 'replayId')
  local verdict = judge(record, fence)
  if verdict ~= 'applied' then return verdict end
  local key = prefix .. 'msg:' .. id
  tell(id, attempt)
  redis.call('HSET', key, 'state', 'done', 'finishedAt', stamp, 'result', result)
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
  redis.call('PEXPIRE', prefix .. 'story:' .. id, body_ttl)
  redis.call('PEXPIRE', prefix .. 'body:' .. id, body_ttl)
  return 'applied'
end

local verdicts = apply_each(complete, 3, 4)
write_accounts() --[g] complete: the account in the same script
return verdicts

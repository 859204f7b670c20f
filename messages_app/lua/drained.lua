-- Take outcomes that MongoDB has acknowledged out of the outbox; from now on their records age. As long as one is
-- remembered, `recorded` says when: what Redis knows can be compared with what MongoDB has.
-- KEYS  1 prefix of every key
-- ARGV  1 ms a record is kept  2 ms the payload and story of a done one are kept, then for each: id, epoch, kind (death, settle)
-- RETURNS  for each: 1, or 0 when the message has moved on
-- RACES  A replay may have begun meanwhile: only the epoch whose outcome was written may be marked.
local prefix = KEYS[1]
--@use time check account outcome
local record_ttl, body_ttl = whole(ARGV[1], 'record ttl'), whole(ARGV[2], 'body ttl')
local TRIMMED = 200 -- more than a call adds; a burst long ago must not hold up the server
local ENDED = { death = 'dead_pending', settle = 'done' }
local MAX_ARGUMENTS = 1000
local acknowledged, recorded = {}, {} -- written once for all

local function drained(id, epoch, kind)
  local record = read(id, 'state', 'epoch', 'outbox', 'account', 'edited')
  local key = prefix .. 'msg:' .. id
  if record.outbox == '' then redis.call('ZREM', prefix .. 'outbox', id) end -- an entry that stands for nothing
  if record.epoch ~= epoch then return 0 end --[g] epoch equal
  if record.outbox ~= kind or record.state ~= ENDED[kind] then return 0 end --[g] state equal
  redis.call('HSET', key, 'state', kind == 'death' and 'dead' or 'done', 'outbox', '')
  if kind == 'death' then
    count(record.account, 'dead', 1)
    count(record.account, 'open', -1)
  end
  local payload_ttl = kind == 'death' and record_ttl or body_ttl
  redis.call('PEXPIRE', key, record_ttl)
  redis.call('PEXPIRE', prefix .. 'story:' .. id, payload_ttl)
  redis.call('PEXPIRE', prefix .. 'body:' .. id, payload_ttl)
  if record.edited == '1' then redis.call('PEXPIRE', prefix .. 'run:' .. id, payload_ttl) end
  acknowledged[#acknowledged + 1] = id
  recorded[#recorded + 1] = stamp
  recorded[#recorded + 1] = id
  return 1
end

local function write_indexes()
  for first = 1, #acknowledged, MAX_ARGUMENTS do
    local last = math.min(first + MAX_ARGUMENTS - 1, #acknowledged)
    redis.call('ZREM', prefix .. 'outbox', unpack(acknowledged, first, last))
    redis.call('HDEL', prefix .. 'quarantine', unpack(acknowledged, first, last))
    redis.call('ZADD', prefix .. 'recorded', unpack(recorded, 2 * first - 1, 2 * last))
  end
end

local answers = {}
for at = 3, #ARGV, 3 do
  answers[#answers + 1] = drained(ARGV[at], ARGV[at + 1], ARGV[at + 2])
end
write_indexes()
local old = redis.call('ZRANGEBYSCORE', prefix .. 'recorded', '-inf', now - record_ttl, 'LIMIT', 0, TRIMMED)
if #old > 0 then redis.call('ZREM', prefix .. 'recorded', unpack(old)) end
write_accounts() --[g] drained: the account in the same script
return answers

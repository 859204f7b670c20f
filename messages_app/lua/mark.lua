-- Note how far the ledger has come, and say whether the state that a caller knows is still part of its past.
-- KEYS  1 prefix of every key
-- ARGV  1 number of the mark that the caller knows, 0 for none  2 its token  3 its time ms  4 accepted  5 moves  6 epoch
--       high  7 open, all of that mark  8 token for a new mark  9 ms from mark to mark  10 marks kept
-- RETURNS  first, kept, lost or same, then the newest mark: number, token, at ms, accepted, moves, epoch high, open
-- RACES  Looking, marking and noting a loss are one step: a process that is killed after it has found a loss has noted
--        it, and of many that find one loss each notes the same.
local prefix = KEYS[1]
--@use time check calendar accepted
local known_number, known_token, known_at = whole(ARGV[1], 'number'), ARGV[2], whole(ARGV[3], 'at')
local known_accepted, known_moves, known_epoch = whole(ARGV[4], 'accepted'), whole(ARGV[5], 'moves'), whole(ARGV[6], 'epoch')
local known_open = whole(ARGV[7], 'open')
local token, every, keep = ARGV[8], whole(ARGV[9], 'interval'), whole(ARGV[10], 'kept')
if not string.find(token, '^%w+$') then error('BADARG token') end
local key = prefix .. 'marks'
local IDLE = 20 -- a ledger in which nothing moves is marked after so many intervals

local function text(value) return string.format('%.0f', value) end

local function mark_of(line)
  if not line then return nil end
  local number, name, at, accepted, moves, epoch, open =
    string.match(line, '^(%d+) (%w+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  return { tonumber(number), name, tonumber(at), tonumber(accepted), tonumber(moves), tonumber(epoch), tonumber(open) }
end
local NUMBER, TOKEN, AT, ACCEPTED, MOVES, EPOCH = 1, 2, 3, 4, 5, 6

-- How far everything has come that only ever rises.
local function present(number)
  local moves = tonumber(redis.call('GET', prefix .. 'pops')) or 0
  for _, count in ipairs(redis.call('HVALS', prefix .. 'tally')) do moves = moves + (tonumber(count) or 0) end
  local open = redis.call('ZCARD', prefix .. 'outbox') + redis.call('HLEN', prefix .. 'quarantine')
  for _, index in ipairs({ 'waiting:high', 'waiting:normal', 'waiting:low', 'waiting:alone', 'due:scheduled',
    'due:retry_wait', 'due:running' }) do
    open = open + redis.call('ZCARD', prefix .. index)
  end
  return { number, token, now, (accepted_ever()), moves, tonumber(redis.call('GET', prefix .. 'epoch:high')) or 0, open }
end

local function append(mark)
  local line = { text(mark[NUMBER]), mark[TOKEN] }
  for at = AT, 7 do line[at] = text(mark[at]) end
  redis.call('RPUSH', key, table.concat(line, ' '))
  redis.call('LTRIM', key, -keep, -1)
end

local newest = mark_of(redis.call('LINDEX', key, -1))

-- `trimmed`: the mark is older than those that are kept, so its numbers decide.
local function verdict()
  if known_number == 0 then return 'first' end
  if not newest or known_number > newest[NUMBER] then return 'lost' end
  local line = redis.call('LINDEX', key, known_number - newest[NUMBER] - 1)
  if line then return mark_of(line)[TOKEN] == known_token and 'kept' or 'lost' end
  local seen = present(0)
  if seen[ACCEPTED] < known_accepted or seen[EPOCH] < known_epoch or seen[MOVES] < known_moves then return 'lost' end
  return 'kept'
end

local said = verdict()
local age = newest and now - newest[AT] or 0
if not newest or said == 'lost' or age < 0 or age >= every then
  local seen = present((newest and newest[NUMBER] or 0) + 1)
  local moved = not newest or seen[MOVES] ~= newest[MOVES] or seen[ACCEPTED] ~= newest[ACCEPTED]
  if moved or said == 'lost' or age < 0 or age >= every * IDLE then
    append(seen)
    newest = seen
  end
end

-- Where the past that the caller knows ends: the last mark that is not younger. What follows it is the present. A loss is
-- named by the first mark of the present, so everybody who finds it finds the same; who knows the youngest mark knows best.
if said == 'lost' then
  local fork, first
  for _, line in ipairs(redis.call('LRANGE', key, 0, -1)) do
    local mark = mark_of(line)
    if mark[AT] <= known_at and mark[TOKEN] ~= token then fork = mark else first = first or mark end
  end
  fork = fork or { 0, '', 0, 0, 0, 0, 0 }
  if fork[ACCEPTED] == known_accepted and fork[MOVES] == known_moves then
    said = 'same' -- all that was lost is a mark
  else
    local losses = prefix .. 'losses'
    local noted = redis.call('HGET', losses, first[TOKEN])
    if not noted or tonumber(cjson.decode(noted).toMs) < known_at then
      redis.call('HSET', losses, first[TOKEN], cjson.encode({ fromMs = text(fork[AT]), toMs = text(known_at),
        seenMs = stamp, missing = text(math.max(0, known_accepted - fork[ACCEPTED])),
        moves = text(math.max(0, known_moves - fork[MOVES])), open = text(known_open) }))
    end
  end
end
return { said, unpack(newest) }

-- Hand out up to `limit` waiting messages to one process, in the order of the lanes, with a fence and a lease each.
-- KEYS  1 prefix of every key
-- ARGV  1 token  2 limit  3 owner  4 messages the process holds  5 max bytes of payload together  6 lease ms
-- RETURNS  waiting in `alone`, 1 when the three lanes are empty, rows (fields of take.lua, then story, body, id)
-- RACES  Two processes must never run one message under live fences, and a claim whose answer was lost must not cost
--        its messages a lease each: so finding, fencing and remembering by token are one step.
local prefix = KEYS[1]
--@use time check calendar wake take
local token, owner = ARGV[1], ARGV[3]
local limit, holding = whole(ARGV[2], 'limit'), whole(ARGV[4], 'holding')
local max_bytes = whole(ARGV[5], 'max bytes')
local lease_until = string.format('%.0f', now + whole(ARGV[6], 'lease'))
if token == '' or limit > 1000 then error('BADARG token or limit') end
local LANES = { 'high', 'normal', 'low' }
local LOOKS = limit * 10 + 100 -- stale wake-ups must not hold up the server; the next claim goes on
local TURN = 20 -- every 20th message comes from the lowest lane that is not empty, so that none starves
local rows, gone, bytes, looks, full = {}, {}, 0, 0, false

local function waiting(lane)
  return redis.call('LLEN', 'rq:queue:' .. lane)
end

-- Deal with one wake-up; false when its payload has no room left in this answer and it has to stay where it is.
local function serve(job, lane)
  local id, epoch, attempt, wakes = string.match(job, '^m%-(.+)%-(%d+)%-(%d+)%-(%d+)$')
  if not id then -- not ours: kept for RQ's own workers, out of the way of what is
    redis.call('RPUSH', 'rq:queue:foreign', job)
    redis.call('SADD', 'rq:queues', 'rq:queue:foreign')
    return true
  end
  local row = look(id)
  local alone, fit = lane_of('', tonumber(row[RECOVERIES]) or 0) == 'alone', fits(row, epoch, attempt)
  if alone ~= (lane == 'alone') then fit = false end --[g] its newest wake-up is in `alone`, or not there any more
  if fit then
    local story, body = content(id, row)
    bytes = bytes + #(body or '')
    if #rows > 0 and bytes > max_bytes then return false end
    hand_out(id, row, owner, lease_until)
    leave(id, row, lane, wakes)
    rows[#rows + 1] = answer(id, row, story, body)
  end
  gone[#gone + 1] = 'rq:job:' .. job
  return true
end

-- Wake-ups are popped after they were dealt with: a server without memory refuses the claim and loses none.
local function take(lane, want)
  local target = #rows + want
  while #rows < target and not full and looks < LOOKS do
    local jobs = redis.call('LRANGE', 'rq:queue:' .. lane, 0, target - #rows - 1)
    if #jobs == 0 then return end
    local used = 0
    looks = looks + #jobs
    for _, job in ipairs(jobs) do
      full = not serve(job, lane)
      if full then break end
      used = used + 1
    end
    if used > 0 then redis.call('LPOP', 'rq:queue:' .. lane, used) end
    if #gone > 0 then redis.call('DEL', unpack(gone)) end
    gone = {}
  end
end

local function take_in_turn()
  local pops = tonumber(redis.call('GET', prefix .. 'pops')) or 0
  local from_below = math.floor((pops + limit) / TURN) - math.floor(pops / TURN)
  for at = #LANES, 1, -1 do take(LANES[at], math.max(0, from_below - #rows)) end
  for _, lane in ipairs(LANES) do take(lane, limit - #rows) end
  if #rows > 0 then redis.call('INCRBY', prefix .. 'pops', #rows) end
end

rows = again(token) or rows --[g] repeatable by token
if #rows == 0 then
  if holding == 0 and limit > 0 then take('alone', 1) end
  if #rows == 0 then take_in_turn() end
  write_indexes()
  remember(token)
end

local alone, left = waiting('alone'), 0
for _, lane in ipairs(LANES) do left = left + waiting(lane) end
-- Whoever leaves work behind wakes the next sleeper; a busy process cannot take what has to run alone.
if left > 0 or (alone > 0 and holding == 0) then
  if redis.call('EXISTS', prefix .. 'bell') == 0 then ring() end
else
  redis.call('DEL', prefix .. 'bell')
end
return { alone, left == 0 and 1 or 0, rows }

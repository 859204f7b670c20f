-- The breaker in memory: loads it, lets time act on it, changes its state, saves it. Each verb uses it.
--
-- KEYS[1]   cb:{name}:s   hash: st gen until ep n f sl ok bad lost opens left, and buckets b0.. =
--           "total,failed,slow"; left: when it last left CLOSED, in ms; 0 while CLOSED, and where an earlier version opened it
-- KEYS[2]   cb:{name}:p   sorted set: leases of probes (token, end in ms); only in HALF_OPEN
-- KEYS[3]   cb:{name}:ev  stream: one entry per transition
-- ARGV[1-8] per mille to trip, window in s, minimum of outcomes, open time in ms, probes, per mille of them to close,
--           lease in ms, per mille of slow calls to trip (0 = off)
-- RACES     the whole script is one step: no other caller sees or changes the breaker between load and save.
local trip, window, minimum, open_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local probes, close, lease_ms, slow_trip = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
--@TIME
local time = redis.call('TIME'); local now = time[1] * 1000 + math.floor(time[2] / 1000)
--@END
local sec = math.floor(now / 1000)
local FIELDS = {'st', 'gen', 'until', 'ep', 'n', 'f', 'sl', 'ok', 'bad', 'lost', 'opens', 'left'}
local row = redis.call('HMGET', KEYS[1], unpack(FIELDS))
local b, changed, stale, leases, touched, events = {}, {}, {}, {}, {}, {}
local fresh, bucket = not row[1], nil
for i, field in ipairs(FIELDS) do b[field] = i == 1 and row[i] or tonumber(row[i]) or 0 end
if fresh then b.st, b.gen, b.ep = 'C', now, sec end
if b.st == 'H' then
  local kept = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
  for i = 1, #kept, 2 do leases[kept[i]] = tonumber(kept[i + 1]) end
end

local function put(field, value) b[field] = value; changed[field] = true end
local function lease(token, till) leases[token] = till; touched[token] = true end

-- How many leases there are, and when the first of them ends.
local function held()
  local count, first = 0, nil
  for _, till in pairs(leases) do count, first = count + 1, math.min(first or till, till) end
  return count, first or now
end

-- An empty window: every bucket goes with the key, which save() writes anew.
local function forget()
  fresh, bucket = true, {0, 0, 0}
  b.ep, b.n, b.f, b.sl = sec, 0, 0, 0
end

-- Drops the buckets of seconds that left the window; all of them when the clock went back. The totals are summed up again,
-- so that a window of another length (a deployment with another policy) leaves nothing behind. An empty window has no
-- buckets, and nothing about it is written: admitting calls to an idle breaker only reads.
local function age()
  if sec == b.ep then return end
  bucket = {0, 0, 0}
  if b.n == 0 then b.ep = sec; return end
  local n, f, sl, all = 0, 0, 0, redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    local slot = tonumber(string.match(all[i], '^b(%d+)$'))
    if slot then
      if sec < b.ep or slot >= window or (b.ep - slot) % window + sec - b.ep >= window then
        stale[#stale + 1] = all[i]
      else
        local total, failed, slow = string.match(all[i + 1], '(%d+),(%d+),(%d+)')
        n, f, sl = n + total, f + failed, sl + slow
      end
    end
  end
  put('ep', sec); put('n', n); put('f', f); put('sl', sl)
end

-- A new generation in another state: no lease and no probe count outlives it.
local function turn(to, why, actor, reason)
  local total, failed = b.n, b.f
  if b.st == 'H' then total, failed = b.ok + b.bad, b.bad end
  put('gen', math.max(b.gen + 1, now))
  events[#events + 1] = {'from', b.st, 'to', to, 'gen', b.gen, 'why', why, 'n', total, 'f', failed, 'at', now,
    'actor', actor or '', 'reason', reason or ''}
  for token in pairs(leases) do lease(token, nil) end
  -- Failed probes and orders do not move it.
  if to == 'C' then put('left', 0) elseif b.st == 'C' then put('left', now) end
  put('st', to); put('ok', 0); put('bad', 0); put('lost', 0)
  put('until', to == 'O' and now + open_ms or 0)
  if to == 'O' then put('opens', b.opens + 1) end
  if to == 'C' or to == 'M' then forget() end
end

-- Ends HALF_OPEN as soon as its verdict is certain, without waiting for the answers that cannot change it.
local function judge()
  if b.ok * 1000 >= close * probes then turn('C', 'probes_succeeded')
  elseif (probes - b.bad) * 1000 < close * probes then turn('O', 'probes_failed')
  elseif b.lost >= probes then turn('O', 'probes_lost') end
end

-- What time has done since the last call: buckets grow old, leases end, deadlines of a clock that went back are cut.
local function settle()
  age()
  if b['until'] > now + open_ms then put('until', now + open_ms) end
  if b.st ~= 'H' then return end
  for token, till in pairs(leases) do
    if till <= now then lease(token, nil); put('lost', b.lost + 1)
    elseif till > now + lease_ms then lease(token, now + lease_ms) end
  end
  judge()
end

local function save()
  if fresh then redis.call('DEL', KEYS[1], KEYS[2]) elseif #stale > 0 then redis.call('HDEL', KEYS[1], unpack(stale)) end
  local row = {}
  for _, field in ipairs(FIELDS) do
    if fresh or changed[field] then row[#row + 1] = field; row[#row + 1] = b[field] end
  end
  if bucket and bucket[1] > 0 then
    row[#row + 1] = 'b' .. sec % window; row[#row + 1] = table.concat(bucket, ',')
  end
  if #row > 0 then redis.call('HSET', KEYS[1], unpack(row)) end
  for token in pairs(touched) do
    if leases[token] then redis.call('ZADD', KEYS[2], leases[token], token) else redis.call('ZREM', KEYS[2], token) end
  end
  for _, event in ipairs(events) do redis.call('XADD', KEYS[3], 'MAXLEN', '~', 1000, '*', unpack(event)) end
end

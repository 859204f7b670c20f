-- Counts the outcomes of permitted calls, in the order given, as if each had been sent alone.
--
-- KEYS      as in machine.lua
-- ARGV[10]  JSON list of [token, generation, "S" success | "F" failure | "I" ignored, duration in ms]
-- RETURNS   {state, generation, outcomes in the window, failures in the window, used 0/1 of each outcome, ...}
-- RACES     an outcome is compared with the generation it belongs to and counted in one step: one that comes late changes
--           nothing, and the outcome that trips is the last one counted.
local function count(outcome, duration)
  if not bucket then
    local kept = redis.call('HGET', KEYS[1], 'b' .. sec % window)
    local total, failed, slow = string.match(kept or '0,0,0', '(%d+),(%d+),(%d+)')
    bucket = {tonumber(total), tonumber(failed), tonumber(slow)}
  end
  local failed = outcome == 'F' and 1 or 0
  local slow = slow_trip > 0 and duration > slow_ms and 1 or 0
  put('ep', sec); put('n', b.n + 1); put('f', b.f + failed); put('sl', b.sl + slow)
  bucket = {bucket[1] + 1, bucket[2] + failed, bucket[3] + slow}
end

local function apply(token, generation, outcome, duration)
  if generation ~= b.gen then return 0 end
  if b.st == 'H' then
    if not leases[token] then return 0 end
    lease(token, nil)
    if outcome == 'S' then put('ok', b.ok + 1) elseif outcome == 'F' then put('bad', b.bad + 1) end
    judge()
    return 1
  end
  if outcome == 'I' or (b.st ~= 'C' and b.st ~= 'M') then return 0 end
  count(outcome, duration)
  if b.st == 'C' and b.n >= minimum then
    if b.f * 1000 >= trip * b.n then turn('O', 'failure_rate')
    elseif slow_trip > 0 and b.sl * 1000 >= slow_trip * b.n then turn('O', 'slow_rate') end
  end
  return 1
end

settle()
local reply = {'', 0, 0, 0}
for i, outcome in ipairs(cjson.decode(ARGV[10])) do reply[4 + i] = apply(unpack(outcome)) end
save()
reply[1], reply[2], reply[3], reply[4] = b.st, b.gen, b.n, b.f
return reply

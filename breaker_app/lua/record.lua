-- Counts the outcomes of permitted calls, in the order given, as if each had been sent alone.
--
-- KEYS      as in shared/machine.lua
-- ARGV[9]   JSON list of runs of equal outcomes, each [token, generation, "S" success | "F" failure | "I" ignored,
--           slow 0/1, how many]
-- RETURNS   {state, generation, outcomes in the window, failures in the window, how many of each run were used, ...}
-- RACES     an outcome is compared with the generation it belongs to and counted in one step: one that comes late changes
--           nothing, and the outcome that trips is the last one counted.
--@use machine
local function count(outcome, slow)
  if not bucket then
    local kept = redis.call('HGET', KEYS[1], 'b' .. sec % window)
    local total, bad, late = string.match(kept or '0,0,0', '(%d+),(%d+),(%d+)')
    bucket = {tonumber(total), tonumber(bad), tonumber(late)}
  end
  local failed = outcome == 'F' and 1 or 0
  bucket[1], bucket[2], bucket[3] = bucket[1] + 1, bucket[2] + failed, bucket[3] + slow
  put('ep', sec); put('n', b.n + 1); put('f', b.f + failed); put('sl', b.sl + slow)
end

local function apply(token, generation, outcome, slow)
  if generation ~= b.gen then return false end
  if b.st == 'H' then
    if not leases[token] then return false end
    lease(token, nil)
    -- A slow success does not show that the downstream is well: where slow calls trip, it must not close the circuit.
    if outcome == 'S' and slow == 0 then put('ok', b.ok + 1) elseif outcome ~= 'I' then put('bad', b.bad + 1) end
    judge()
    return true
  end
  if outcome == 'I' or (b.st ~= 'C' and b.st ~= 'M') then return false end
  count(outcome, slow)
  if b.st == 'C' and b.n >= minimum then
    if b.f * 1000 >= trip * b.n then turn('O', 'failure_rate')
    elseif slow_trip > 0 and b.sl * 1000 >= slow_trip * b.n then turn('O', 'slow_rate') end
  end
  return true
end

settle()
local reply = {'', 0, 0, 0}
for i, run in ipairs(cjson.decode(ARGV[9])) do
  local used = 0
  -- When one of a run is not used, none after it is: a generation and a lease never come back.
  while used < run[5] and apply(run[1], run[2], run[3], run[4]) do used = used + 1 end
  reply[4 + i] = used
end
save()
reply[1], reply[2], reply[3], reply[4] = b.st, b.gen, b.n, b.f
return reply

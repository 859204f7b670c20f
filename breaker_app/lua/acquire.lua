-- Asks for a permit: may this call be made?
--
-- KEYS      as in shared/machine.lua
-- ARGV[9]   token: id of this call, chosen by the caller
-- RETURNS   {allowed 0/1, state, generation, retry after in ms (0 allowed, -1 only a person can tell)}
-- RACES     the step from OPEN to HALF_OPEN and the first permit are one, and permits are counted where they are given:
--           never more probes than the policy admits, over all hosts. One token asked for twice is one probe.
--@use machine
local token = ARGV[9]
settle()
if b.st == 'O' and now >= b['until'] then turn('H', 'open_time_over') end

local allowed, wait = 1, 0
if b.st == 'O' then
  allowed, wait = 0, b['until'] - now
elseif b.st == 'F' then
  allowed, wait = 0, -1
elseif b.st == 'H' and not leases[token] then
  local count, first = held()
  if count + b.ok + b.bad < probes then lease(token, now + lease_ms) else allowed, wait = 0, first - now end
end
save()
return {allowed, b.st, b.gen, wait}

-- Looks at the breaker and writes nothing: time moves no state, only callers do.
--
-- KEYS      as in shared/machine.lua
-- RETURNS   {state, generation, outcomes, failures, slow, leases, probes succeeded, probes failed, probes lost, opens,
--           retry after in ms (0 now, -1 only a person can tell), due 0/1: OPEN and its time is up,
--           when it left CLOSED in ms or 0}
-- RACES     none: run read-only.
--@use machine
age()
for token, till in pairs(leases) do
  leases[token] = till > now and math.min(till, now + lease_ms) or nil
end
local count, first = held()
local wait = 0
if b.st == 'O' then wait = math.min(math.max(b['until'] - now, 0), open_ms)
elseif b.st == 'F' then wait = -1
elseif b.st == 'H' and count + b.ok + b.bad >= probes then wait = first - now end
return {b.st, fresh and 0 or b.gen, b.n, b.f, b.sl, count, b.ok, b.bad, b.lost, b.opens, wait,
  b.st == 'O' and wait == 0 and 1 or 0, b.left}

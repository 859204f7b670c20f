-- Sends the breaker where a person wants it, from any state, also from that very state.
--
-- KEYS      as in shared/machine.lua
-- ARGV[9]   state: C close and reset, O open for the open time, F force open, D disable, M metrics only
-- ARGV[10]  actor, ARGV[11] reason: both kept with the transition
-- RETURNS   {state, generation}
-- RACES     the new generation begins in the same step: outcomes of calls that are under way cannot undo the order.
--@use machine
settle()
turn(ARGV[9], 'manual', ARGV[10], ARGV[11])
save()
return {b.st, b.gen}

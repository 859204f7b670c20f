-- How often each thing has happened since the beginning. Added up first and written once per thing, however many messages
-- a call carries.
local happened = {}

local function tally(what)
  happened[what] = (happened[what] or 0) + 1
end

local function write_tallies()
  for what, times in pairs(happened) do redis.call('HINCRBY', prefix .. 'tally', what, times) end
end

-- The processes of ours that were alive a moment ago.
-- KEYS  1 prefix of every key
-- ARGV  1 ms of silence after which one counts as gone
-- RETURNS  for each, by name: name, seen at ms, what it says about itself
-- RACES  None to win: one step, so that each description belongs to its time.
local prefix = KEYS[1]
--@use time check
local since = now - whole(ARGV[1], 'silence')
local found = redis.call('ZRANGEBYSCORE', prefix .. 'presence', '(' .. since, '+inf', 'WITHSCORES')
local rows = {}
for at = 1, #found, 2 do
  rows[#rows + 1] = { found[at], tonumber(found[at + 1]), redis.call('HGET', prefix .. 'presence:about', found[at]) or '{}' }
end
return rows

-- Hand out the one message whose wake-up RQ's own worker has popped.
-- KEYS  1 prefix of every key
-- ARGV  1 id  2 epoch  3 attempt  4 token  5 owner  6 lease ms
-- RETURNS  rows as claim.lua: one, or none when the wake-up no longer fits
-- RACES  RQ may deliver a wake-up twice or late; only the first that fits gets a fence.
local prefix = KEYS[1]
--@use time check calendar wake take
local id, epoch, attempt = identifier(ARGV[1]), ARGV[2], ARGV[3]
local token, owner = ARGV[4], ARGV[5]
local lease_until = string.format('%.0f', now + whole(ARGV[6], 'lease'))
if token == '' then error('BADARG token') end

local rows = again(token) --[g] repeatable by token
if rows then return rows end
local row = look(id)
if not fits(row, epoch, attempt) then return {} end
local priority = redis.call('HGET', prefix .. 'msg:' .. id, 'priority')
hand_out(id, row, owner, lease_until)
-- Which wake-up this was is not known: only a message that was woken once proves anything.
leave(id, row, lane_of(priority, tonumber(row[RECOVERIES]) or 0), '1')
write_indexes()
remember(token)
return { answer(id, row, content(id, row)) }

-- Say whether the replay with this epoch exists; if not, make sure that it never will.
-- KEYS  1 prefix of every key
-- ARGV  1 id  2 epoch  3 ms the ban is kept
-- RETURNS  1 and its state, or 0 and empty when the epoch is banned
-- RACES  Looking and barring are one step: between the two, an order under way could start the message.
local prefix = KEYS[1]
--@use check
local id, epoch, ttl = identifier(ARGV[1]), whole(ARGV[2], 'epoch'), whole(ARGV[3], 'ttl')
local state, at, replay_id = unpack(redis.call('HMGET', prefix .. 'msg:' .. id, 'state', 'epoch', 'replayId'))
if tonumber(at) == epoch and (replay_id or '') ~= '' then return { 1, state } end
local key = prefix .. 'void:' .. id
redis.call('SET', key, math.max(epoch, tonumber(redis.call('GET', key)) or 0), 'PX', ttl)
return { 0, '' }

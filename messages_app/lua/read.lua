-- Read records whole, each with its story, its payload and its edited content, as they stood at one instant.
-- KEYS  1 prefix of every key
-- ARGV  ids
-- RETURNS  for each id: field, value, …; story; body or nil; edited body or nil; no fields when there is no record
-- RACES  A replay could begin between the record and its payload; read apart they would not fit each other.
local prefix = KEYS[1]
local rows = {}
for at, id in ipairs(ARGV) do
  rows[at] = {
    redis.call('HGETALL', prefix .. 'msg:' .. id),
    redis.call('GET', prefix .. 'story:' .. id),
    redis.call('GET', prefix .. 'body:' .. id),
    redis.call('GET', prefix .. 'run:' .. id),
  }
end
return rows

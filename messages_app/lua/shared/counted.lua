-- What an account adds to counters that never fall. `done` and `dead` fall when an ended message runs again; the number of
-- these is added again. Fields `carried…` are the part that carry.lua has added to the sums of all days.
local COUNTED = { 'accepted', 'done', 'dead', 'reopenedDone', 'reopenedDead' }
local CARRIED = { 'carriedAccepted', 'carriedDone', 'carriedDead', 'carriedReopenedDone', 'carriedReopenedDead' }
local DONE, DEAD, REOPENED_DONE, REOPENED_DEAD = 2, 3, 4, 5

local function numbers_of(text)
  local found = {}
  for number in string.gmatch(text or '', '%d+') do found[#found + 1] = tonumber(number) end
  for at = #found + 1, #COUNTED do found[at] = 0 end
  return found
end

local function text_of(numbers)
  local words = {}
  for at = 1, #COUNTED do words[at] = string.format('%.0f', numbers[at]) end
  return table.concat(words, ' ')
end

-- The counts of an account, and those that are carried already; nil when it has expired.
local function counted_in(account)
  local key, counts, carried, exists = prefix .. 'acct:' .. account, {}, {}, false
  for at, value in ipairs(redis.call('HMGET', key, unpack(COUNTED))) do
    exists = exists or value
    counts[at] = math.max(0, tonumber(value) or 0)
  end
  if not exists then return nil end
  for at, value in ipairs(redis.call('HMGET', key, unpack(CARRIED))) do carried[at] = tonumber(value) or 0 end
  counts[DONE] = counts[DONE] + counts[REOPENED_DONE]
  counts[DEAD] = counts[DEAD] + counts[REOPENED_DEAD]
  return counts, carried
end

local function add_new(sums, counts, carried)
  for at = 1, #COUNTED do sums[at] = sums[at] + math.max(0, counts[at] - carried[at]) end
end

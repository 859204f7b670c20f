-- What an account adds to counters that never fall. `done` and `dead` fall when an ended message runs again; the number of
-- these is added again. `carried` is the part that carry.lua has added to the sums of all days.
local COUNTED = { 'accepted', 'done', 'dead', 'reopenedDone', 'reopenedDead' }
local ACCEPTED, DONE, DEAD, REOPENED_DONE, REOPENED_DEAD = 1, 2, 3, 4, 5

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
  local row = redis.call('HMGET', prefix .. 'acct:' .. account, 'carried', unpack(COUNTED))
  local counts, exists = {}, false
  for at = 1, #COUNTED do
    exists = exists or row[at + 1]
    counts[at] = math.max(0, tonumber(row[at + 1]) or 0)
  end
  if not exists then return nil end
  counts[DONE] = counts[DONE] + counts[REOPENED_DONE]
  counts[DEAD] = counts[DEAD] + counts[REOPENED_DEAD]
  return counts, numbers_of(row[1])
end

local function add_new(sums, counts, carried)
  for at = 1, #COUNTED do sums[at] = sums[at] + math.max(0, counts[at] - carried[at]) end
end

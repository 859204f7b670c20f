-- Apply a step to one message of many. Answers the step's first value, nil, and its other two; or 'refused' and why. Without this the error of one would end the script
-- before the others are written down whole. Nothing of a refused message is written: its parts are written in an order in
-- which only the first can fail.
local function apply_alone(apply, ...)
  local ok, answer, second, third = pcall(apply, ...)
  if ok then return answer, nil, second, third end
  local why = type(answer) == 'table' and answer.err or tostring(answer)
  -- What one message causes: an invalid argument, a key of another kind, a text that grows too long, a field that is no
  -- number.
  for _, words in ipairs({ 'BADARG ', 'WRONGTYPE', 'exceeds maximum', 'attempt to ', 'not an integer' }) do
    if string.find(why, words, 1, true) then return 'refused', why end
  end
  error(answer) -- of the server: the whole call is sent again
end

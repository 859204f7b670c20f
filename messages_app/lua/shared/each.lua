-- Apply an outcome script to each message of the call, `step` arguments each from `first` on; the verdicts in order.
local function apply_each(apply, first, step)
  local verdicts = {}
  for at = first, #ARGV, step do
    verdicts[#verdicts + 1] = apply_alone(apply, unpack(ARGV, at, at + step - 1))
  end
  write_ended()
  write_tallies()
  return verdicts
end

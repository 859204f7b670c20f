-- Posts BENCH_BODY with the headers of BENCH_HEADERS (one a line) and ends with one line of JSON.
wrk.method = "POST"
wrk.body = os.getenv("BENCH_BODY")
wrk.headers["Content-Type"] = "application/json"
for name, value in string.gmatch(os.getenv("BENCH_HEADERS") or "", "([^:\n]+): ([^\n]+)") do
  wrk.headers[name] = value
end

function done(summary, latency, requests)
  local seconds, errors = summary.duration / 1e6, summary.errors
  local function ms(percentile) return latency:percentile(percentile) / 1000 end
  io.write(string.format(
    'RESULT {"requests":%d,"seconds":%.3f,"rps":%.1f,"p50_ms":%.2f,"p90_ms":%.2f,"p99_ms":%.2f,"max_ms":%.2f,"refused":%d,"socket_errors":%d}\n',
    summary.requests, seconds, summary.requests / seconds, ms(50), ms(90), ms(99), latency.max / 1000,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end

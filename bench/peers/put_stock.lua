-- Changes the stock of a thousand SKUs in turn, up and down by one.
local n = 0
wrk.method = "PUT"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = os.getenv("BENCH_AUTHORIZATION")
function request()
  n = (n + 1) % 2000
  local action = n < 1000 and "increment" or "decrement"
  return wrk.format("PUT", (wrk.path:gsub("SKU", "B" .. (n % 1000))), nil,
    '{"stock":1,"action":"' .. action .. '"}')
end

-- Reads the stock of a thousand SKUs in turn. The path holds SKU where the number goes.
local n = 0
function request()
  n = (n + 1) % 1000
  return wrk.format("GET", (wrk.path:gsub("SKU", "B" .. n)))
end

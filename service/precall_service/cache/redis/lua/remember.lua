-- Adds a record to the log of what is learned about a tenant, and drops the oldest ones above the limits.
-- KEYS: the log. ARGV: the record, the most records, the most bytes, milliseconds to keep the log.
-- Each record has its number as its id, and the total of the bytes of all records up to its own.
local log = KEYS[1]
local bytes_max = tonumber(ARGV[3])

local number, total = 0, 0
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
if last then
  number, total = tonumber(string.match(last[1], '^%d+')), tonumber(last[2][2])
end
number, total = number + 1, total + #ARGV[1]
redis.call('XADD', log, 'MAXLEN', ARGV[2], string.format('%.0f-0', number),
  'total', string.format('%.0f', total), 'record', ARGV[1])
while true do
  local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  if total - (tonumber(first[2][2]) - #first[2][4]) <= bytes_max then
    break
  end
  redis.call('XDEL', log, first[1])
end
redis.call('PEXPIRE', log, ARGV[4])
return number

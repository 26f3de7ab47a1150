-- Makes everything stale that was stored before, for all tenants. KEYS: server, epochs. ARGV: the id
-- of the server's run, or empty; the highest position known. Does nothing if this run is known.
local function text(number)
  return string.format('%.0f', number)
end

local state = redis.call('HMGET', KEYS[1], 'epoch', 'high', 'run')
if ARGV[1] ~= '' and ARGV[1] == state[3] and state[1] then
  return tonumber(state[1])
end
local clock = redis.call('TIME')
local epoch = math.max(clock[1] * 1000000 + clock[2], (tonumber(state[1]) or 0) + 1,
  (tonumber(state[2]) or 0) + 1, tonumber(ARGV[2]) + 1)
redis.call('HSET', KEYS[1], 'epoch', text(epoch), 'high', text(epoch))
if ARGV[1] ~= '' then
  redis.call('HSET', KEYS[1], 'run', ARGV[1])
end
-- A stream of one record, whose id is the epoch. Readers of the log wait for it, too.
redis.call('DEL', KEYS[2])
redis.call('XADD', KEYS[2], text(epoch) .. '-0', 'epoch', text(epoch))
return epoch

-- The beginning of every script that only reads. It returns nil if `prepare` has to run first: for a
-- new tenant, and to end an overdue write. KEYS: versions, server.
local state = redis.call('ZMSCORE', versions, '#seq', '#floor', '#due')
local epoch = redis.call('HGET', KEYS[2], 'epoch')
if not state[1] or not epoch then
  return false
end
if state[3] then
  local clock = redis.call('TIME')
  if tonumber(state[3]) <= clock[1] * 1000000 + clock[2] then
    return false
  end
end

epoch = tonumber(epoch)
local position = math.max(tonumber(state[1]), epoch)
local floor = math.max(tonumber(state[2]), epoch)

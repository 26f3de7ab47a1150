-- Returns the position, and the version of each resource; writes nothing. Nil: `prepare` has to run
-- first.
-- KEYS: versions, server. ARGV: for each resource, the number of its nodes, and its nodes.
local versions = KEYS[1]
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

local floor = math.max(tonumber(state[2]), tonumber(epoch))
local found = {math.max(tonumber(state[1]), tonumber(epoch))}
local index = 1
while index <= #ARGV do
  local last = index + tonumber(ARGV[index])
  local version = floor
  for node = index + 1, last do
    version = math.max(version, tonumber(redis.call('ZSCORE', versions, ARGV[node])) or 0)
  end
  found[#found + 1] = version
  index = last + 1
end
return found

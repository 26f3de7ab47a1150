-- Returns whether there is an entry and what it is; writes nothing. Nil: `prepare` has to run first.
-- KEYS: versions, server, entry. ARGV: nodes.
local CHUNK = 1000
local versions = KEYS[1]

local function latest(nodes, least)
  for start = 1, #nodes, CHUNK do
    local stop = math.min(start + CHUNK - 1, #nodes)
    for _, score in ipairs(redis.call('ZMSCORE', versions, unpack(nodes, start, stop))) do
      local version = tonumber(score)
      if version and version > least then
        least = version
      end
    end
  end
  return least
end

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
local changed_at = latest(ARGV, math.max(tonumber(state[2]), epoch))
local entry = redis.call('HMGET', KEYS[3], 'snapshot', 'nodes', 'version', 'resources', 'value')
if not entry[1] then
  return {position, changed_at}
end
local newest = changed_at
if entry[2] ~= table.concat(ARGV, '\n') then
  local own = {}
  for node in string.gmatch(entry[2], '[^\n]+') do
    own[#own + 1] = node
  end
  newest = latest(own, newest)
end
if newest > tonumber(entry[1]) then
  return {position, changed_at, 0}
end
return {position, changed_at, tonumber(entry[3]), redis.call('PTTL', KEYS[3]), entry[4], entry[5]}

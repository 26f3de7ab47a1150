-- The beginning of every script that only reads. It returns nil if `prepare` has to run first: for a
-- new tenant, and to end an overdue write. KEYS: versions, server.
local CHUNK = 1000 -- `unpack` has a limit of 8000
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

epoch = tonumber(epoch)
local position = math.max(tonumber(state[1]), epoch)
local floor = math.max(tonumber(state[2]), epoch)

-- Returns the position of the last change to these nodes, or `least` if that is higher.
local function latest(nodes, first, last, least)
  for start = first, last, CHUNK do
    local stop = math.min(start + CHUNK - 1, last)
    for _, score in ipairs(redis.call('ZMSCORE', versions, unpack(nodes, start, stop))) do
      local version = tonumber(score)
      if version and version > least then
        least = version
      end
    end
  end
  return least
end

-- The beginning of every script except `epoch`: the versions of nodes.
local CHUNK = 1000 -- `unpack` has a limit of 8000
local versions = KEYS[1]

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

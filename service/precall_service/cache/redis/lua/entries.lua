-- Follows `common.lua` in the scripts that write or count entries.
local entry, index, sizes = KEYS[7], KEYS[8], KEYS[9]
local SWEPT_MAX = 16

-- Removes an entry from the statistics.
local function uncount(digest)
  redis.call('ZREM', index, digest)
  local size = redis.call('HGET', sizes, digest)
  if size then
    redis.call('HDEL', sizes, digest)
    redis.call('HINCRBY', sizes, '#bytes', '-' .. size)
  end
end

-- Removes expired entries from the statistics.
local function sweep(most)
  local now = text(time / 1000)
  for _, digest in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', now, 'LIMIT', 0, most)) do
    uncount(digest)
  end
end

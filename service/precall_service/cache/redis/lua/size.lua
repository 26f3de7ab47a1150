-- Returns the number of entries, their bytes, and the number of entries that Redis has evicted.
-- ARGV: the prefix of the keys of entries.
local CHECKED_MAX = 64
sweep(1000)
if redis.call('EXISTS', index) == 0 then
  redis.call('HDEL', sizes, '#bytes')
end
-- Redis does not report what it evicts, so a sample of the entries is checked.
for _, digest in ipairs(redis.call('ZRANDMEMBER', index, CHECKED_MAX)) do
  if redis.call('EXISTS', ARGV[4] .. digest) == 0 then
    uncount(digest)
    redis.call('HINCRBY', sizes, '#evicted', 1)
  end
end
finish()
local totals = redis.call('HMGET', sizes, '#bytes', '#evicted')
return {redis.call('ZCARD', index), tonumber(totals[1] or 0), tonumber(totals[2] or 0)}

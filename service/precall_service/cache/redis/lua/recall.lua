-- Returns the oldest records after a number, each after its own number. KEYS: the log of what is learned
-- about a tenant. ARGV: the number, the most records, the bytes of records at which a page ends.
local found, size, bytes_max = {}, 0, tonumber(ARGV[3])
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '(' .. ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])) do
  found[#found + 1] = tonumber(string.match(entry[1], '^%d+'))
  found[#found + 1] = entry[2][4]
  size = size + #entry[2][4]
  if size >= bytes_max then
    break
  end
end
return found

-- Returns the position after which a reader of the log reads on, whether changes before it are lost,
-- and the epoch. ARGV: the reader's position; empty if it starts now.
settle_overdue()
finish()
local after = tonumber(ARGV[4])
if not after then
  return {position, 0, epoch}
end
if after > position then
  return {position, 1, epoch}
end
local start = math.max(after, epoch)
local next_one = redis.call('XRANGE', log, '(' .. text(start), '+', 'COUNT', 1)[1]
local before = logged
if next_one then
  before = tonumber(next_one[2][2])
end
start = math.max(start, before)
return {start, start > after and 1 or 0, epoch}

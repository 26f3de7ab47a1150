-- Returns the position at which a reader of the log goes on, whether changes before it are lost,
-- and the epoch. ARGV: the reader's position, empty if it begins now.
settle_overdue()
finish()
local after = tonumber(ARGV[4])
if not after then
  return {position, 0, epoch}
end
if after > position then
  return {position, 1, epoch}
end
if after < epoch then
  return {math.max(epoch, after), 1, epoch}
end
if logged > after and #redis.call('XRANGE', log, '(' .. text(after), '+', 'COUNT', 1) == 0 then
  return {logged, 1, epoch}
end
return {after, 0, epoch}

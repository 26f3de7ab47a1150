-- Gives nodes a new version. ARGV: change, id of the announced write that ends or empty, nodes.
settle_overdue()
touch(ARGV, 6)
note(ARGV[4])
if ARGV[5] ~= '' and redis.call('ZREM', pending, ARGV[5]) == 1 then
  redis.call('HDEL', writes, ARGV[5])
  read_due()
end
finish()
return position

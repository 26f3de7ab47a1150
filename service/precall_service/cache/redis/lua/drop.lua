-- Removes an entry, and gives nodes a new version. ARGV: digest, change, nodes.
settle_overdue()
redis.call('DEL', entry)
uncount(ARGV[4])
touch(ARGV, 6)
note(ARGV[5])
finish()
return position

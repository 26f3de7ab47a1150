-- Removes an entry. ARGV: digest, change, nodes to change.
settle_overdue()
redis.call('DEL', entry)
uncount(ARGV[4])
touch(ARGV, 6)
note(ARGV[5])
finish()
return position

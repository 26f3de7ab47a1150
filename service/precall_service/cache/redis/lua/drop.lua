-- Removes an entry. ARGV: digest, change.
settle_overdue()
redis.call('DEL', entry)
uncount(ARGV[4])
next_position()
note(ARGV[5])
finish()
return position

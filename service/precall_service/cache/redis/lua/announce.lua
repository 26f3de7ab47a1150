-- Gives nodes a new version, and remembers to do so again. ARGV: change, id, milliseconds, nodes.
settle_overdue()
touch(ARGV, 7)
local write = {ARGV[4]}
for index = 7, #ARGV do
  write[#write + 1] = ARGV[index]
end
if due and tonumber(redis.call('ZRANGE', pending, 0, 0, 'WITHSCORES')[2]) ~= due then
  raise_floor() -- Announced writes were lost, and nobody would end them.
end
redis.call('ZADD', pending, text(time + tonumber(ARGV[6]) * 1000), ARGV[5])
redis.call('HSET', writes, ARGV[5], cmsgpack.pack(write))
redis.call('PEXPIRE', pending, keep_ms)
redis.call('PEXPIRE', writes, keep_ms)
if redis.call('ZCARD', pending) > PENDING_MAX then
  -- The one that is due first ends now, and changes its nodes once more if it ends by itself.
  settle(redis.call('ZRANGE', pending, 0, 0)[1])
end
read_due()
finish()
return position

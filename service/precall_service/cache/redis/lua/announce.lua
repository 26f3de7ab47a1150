-- Gives nodes a new version, and keeps the write until it ends or is overdue, which gives them one
-- again. ARGV: change, id of the write, milliseconds until it is overdue, nodes.
settle_overdue()
touch(ARGV, 7)
local write = {ARGV[4]}
for index = 7, #ARGV do
  write[#write + 1] = ARGV[index]
end
if due and tonumber(redis.call('ZRANGE', pending, 0, 0, 'WITHSCORES')[2]) ~= due then
  raise_floor() -- Announced writes were lost, so they would never be ended.
end
redis.call('ZADD', pending, text(time + tonumber(ARGV[6]) * 1000), ARGV[5])
redis.call('HSET', writes, ARGV[5], cmsgpack.pack(write))
redis.call('PEXPIRE', pending, keep_ms)
redis.call('PEXPIRE', writes, keep_ms)
if redis.call('ZCARD', pending) > PENDING_MAX then
  -- The write that is due first is ended now. If it ends later, it changes its nodes once more.
  settle(redis.call('ZRANGE', pending, 0, 0)[1])
end
read_due()
finish()
return position

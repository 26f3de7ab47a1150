-- The beginning of every script that writes. All of them have these keys and arguments:
local log, pending, writes, server, epochs = KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local nodes_max, changes_max, keep_ms = tonumber(ARGV[1]), ARGV[2], ARGV[3]

-- `versions` contains the version of each node. It also contains the state of the tenant, under names
-- that no node has, because neither may be lost without the other:
--   #seq    the last position that was given out
--   #floor  the version of every node without a version of its own
--   #log    the position of the last change in the log
--   #due    the time when the first announced write is overdue, in microseconds
local PENDING_MAX = 256 -- The most announced writes.

-- Converts a number to text: Lua's own conversion keeps 14 digits, but a position has 16.
local function text(number)
  return string.format('%.0f', number)
end

local clock = redis.call('TIME')
local time = clock[1] * 1000000 + clock[2]

local state = redis.call('HMGET', server, 'epoch', 'high')
local epoch, high = tonumber(state[1]), tonumber(state[2]) or 0
state = redis.call('ZMSCORE', versions, '#seq', '#floor', '#log', '#due')
local seq, floor = tonumber(state[1]), tonumber(state[2])
local logged, due = tonumber(state[3]), tonumber(state[4])

local function set(name, value)
  redis.call('ZADD', versions, text(value), name)
end

if not epoch then -- It was lost, or never set: entries may be from before a lost write.
  epoch = math.max(time, high + 1, seq or 0)
  redis.call('HSET', server, 'epoch', text(epoch))
  redis.call('DEL', epochs)
  redis.call('XADD', epochs, text(epoch) .. '-0', 'epoch', text(epoch))
end

local position = math.max(seq or 0, epoch)

local function next_position()
  position = math.max(position + 1, time)
  return position
end

local function raise_floor()
  floor = next_position()
  set('#floor', floor)
end

local function read_due()
  local first = redis.call('ZRANGE', pending, 0, 0, 'WITHSCORES')
  due = tonumber(first[2])
  if due then
    set('#due', due)
  else
    redis.call('ZREM', versions, '#due')
  end
end

if not seq then -- A new tenant, or one whose versions were lost: all of its entries are stale.
  position = math.max(position, high)
  raise_floor()
  redis.call('DEL', log)
  logged = floor
  set('#log', logged)
  read_due()
end

local function touch(nodes, first)
  local version = text(next_position())
  for start = first, #nodes, CHUNK do
    local pairs_of = {}
    for index = start, math.min(start + CHUNK - 1, #nodes) do
      pairs_of[#pairs_of + 1] = version
      pairs_of[#pairs_of + 1] = nodes[index]
    end
    redis.call('ZADD', versions, unpack(pairs_of))
  end
end

-- Logs a change at the current position.
local function note(change, entry_version)
  if change == '' then
    return
  end
  redis.call('XADD', log, 'MAXLEN', changes_max, text(position) .. '-0',
    'after', text(logged), 'change', change, 'version', text(entry_version or 0))
  logged = position
  set('#log', logged)
end

-- Ends an announced write: its nodes change, and the change is logged.
local function settle(id)
  local write = redis.call('HGET', writes, id)
  redis.call('ZREM', pending, id)
  redis.call('HDEL', writes, id)
  if write then
    local parts = cmsgpack.unpack(write)
    touch(parts, 2)
    note(parts[1])
  else
    raise_floor()
  end
end

local function settle_overdue()
  if not due or due > time then
    return
  end
  local ids = redis.call('ZRANGEBYSCORE', pending, '-inf', text(time))
  for _, id in ipairs(ids) do
    settle(id)
  end
  if #ids == 0 then -- The announced writes were lost.
    raise_floor()
  end
  read_due()
end

local function forget_oldest()
  local special = due and 4 or 3
  local over = redis.call('ZCARD', versions) - special - nodes_max
  if over <= 0 then
    return
  end
  local oldest = redis.call('ZRANGE', versions, 0, over + special - 1, 'WITHSCORES')
  for index = 1, #oldest, 2 do
    if over > 0 and string.sub(oldest[index], 1, 1) ~= '#' then
      over = over - 1
      floor = math.max(floor, tonumber(oldest[index + 1]))
      redis.call('ZREM', versions, oldest[index])
    end
  end
  set('#floor', floor)
end

-- Every script that writes calls this at its end.
local function finish()
  set('#seq', position)
  forget_oldest()
  if position > high then
    redis.call('HSET', server, 'high', text(position))
  end
  redis.call('PEXPIRE', versions, keep_ms)
  redis.call('PEXPIRE', log, keep_ms)
end

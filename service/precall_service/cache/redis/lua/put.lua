-- Stores an entry if the conditions hold. ARGV: snapshot, expected version of the entry, milliseconds
-- to live, digest, change, value, size; the number of nodes, and these; the number of further nodes
-- that must not have changed since the snapshot, and these; for each resource: the observed version,
-- the number of its nodes, and these. Returns the outcome and a number: the version of the entry, or
-- the index of the resource (-1: another node). If the entry was stored, also returns its position.
settle_overdue()
sweep(SWEPT_MAX)
local now = position

-- The nodes, and the versions of the resources.
local least, snapshot = math.max(floor, epoch), tonumber(ARGV[4])
local cursor = 11 + tonumber(ARGV[11])
local nodes = {}
for argument = 12, cursor do
  nodes[#nodes + 1] = ARGV[argument]
end
local newest = latest(nodes, 1, #nodes, least)
local further = cursor + 2
cursor = cursor + 1 + tonumber(ARGV[cursor + 1])
local resources, refusal = {}, nil
if snapshot and snapshot > now then
  refusal = {'not yet', -1}
elseif snapshot and latest(ARGV, further, cursor, newest) > snapshot then
  refusal = {'changed', -1}
end
cursor = cursor + 1
while cursor <= #ARGV do
  local observed, first = tonumber(ARGV[cursor]), cursor + 2
  cursor = first + tonumber(ARGV[cursor + 1])
  local version = latest(ARGV, first, cursor - 1, least)
  for argument = first, cursor - 1 do
    nodes[#nodes + 1] = ARGV[argument]
  end
  if not refusal and observed and observed > now then
    refusal = {'not yet', #resources}
  elseif not refusal and ((observed and observed ~= version) or (snapshot and version > snapshot)) then
    refusal = {'changed', #resources}
  end
  resources[#resources + 1] = text(version)
end
if refusal then
  finish()
  return refusal
end

local old = redis.call('HMGET', entry, 'snapshot', 'nodes', 'version')
local expected = tonumber(ARGV[5])
if expected then
  local actual = 0
  if old[1] then
    local own = {}
    for node in string.gmatch(old[2], '[^\n]+') do
      own[#own + 1] = node
    end
    if latest(own, 1, #own, least) <= tonumber(old[1]) then
      actual = tonumber(old[3])
    end
  end
  if actual ~= expected then
    finish()
    return {'mismatched', actual}
  end
end

next_position()
local version = old[3] and tonumber(old[3]) + 1 or position
local digest, size = ARGV[7], ARGV[10]
redis.call('HSET', entry, 'snapshot', text(snapshot or position), 'version', text(version),
  'nodes', table.concat(nodes, '\n'), 'resources', table.concat(resources, ' '),
  'value', ARGV[9])
redis.call('PEXPIRE', entry, ARGV[6])
uncount(digest)
redis.call('ZADD', index, text(time / 1000 + tonumber(ARGV[6])), digest)
redis.call('HSET', sizes, digest, size)
redis.call('HINCRBY', sizes, '#bytes', size)
redis.call('PEXPIRE', index, keep_ms)
redis.call('PEXPIRE', sizes, keep_ms)
note(ARGV[8], version)
finish()
return {'stored', version, position}

-- Returns the position, the last change to the nodes, and what there is for the key: nothing, 0 for
-- a stale entry, or the usable entry. KEYS: versions, server, entry. ARGV: nodes.
local changed_at = latest(ARGV, 1, #ARGV, floor)
local entry = redis.call('HMGET', KEYS[3], 'snapshot', 'nodes', 'version', 'resources', 'value')
if not entry[1] then
  return {position, changed_at}
end
local newest = changed_at
local nodes = entry[2]
-- Usually, the nodes of the entry are the first of those in ARGV, and have been checked.
if string.sub(table.concat(ARGV, '\n') .. '\n', 1, #nodes + 1) ~= nodes .. '\n' then
  local own = {}
  for node in string.gmatch(nodes, '[^\n]+') do
    own[#own + 1] = node
  end
  newest = latest(own, 1, #own, newest)
end
if newest > tonumber(entry[1]) then
  return {position, changed_at, 0}
end
return {position, changed_at, tonumber(entry[3]), redis.call('PTTL', KEYS[3]), entry[4], entry[5]}

-- Returns the position, and the version of each resource. ARGV: for each resource, the number of its
-- nodes, and these.
local found = {position}
local index = 1
while index <= #ARGV do
  local last = index + tonumber(ARGV[index])
  found[#found + 1] = latest(ARGV, index + 1, last, floor)
  index = last + 1
end
return found

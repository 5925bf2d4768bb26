-- Moves keys of a foreign type out of the way: those of KEYS, and the lanes of each round among them.
--
-- KEYS  names of ours
-- ARGV  1 prefix of the new names  2 seconds to keep them, then the type that each of KEYS has to have
-- Returns {name, type found, type wanted} for each that was moved.

local moved = {}
local function look(name, wanted)
  local kind = redis.call('TYPE', name).ok
  if kind ~= 'none' and kind ~= wanted then
    redis.call('RENAME', name, ARGV[1] .. name)
    redis.call('EXPIRE', ARGV[1] .. name, ARGV[2])
    moved[#moved + 1] = { name, kind, wanted }
  end
end

for i, name in ipairs(KEYS) do
  look(name, ARGV[i + 2])
  local lanes = name:match('^(.*#)round$')
  if lanes then
    for _, lane in ipairs(redis.call('ZRANGE', name, 0, -1)) do look(lanes .. lane, 'zset') end
  end
end
return moved

-- Moves keys of a foreign type out of the way.
--
-- KEYS  names of ours
-- ARGV  1 prefix of the new names  2 seconds to keep them, then the type that each of KEYS has to have
-- Returns {name, type found} for each that was moved.

local moved = {}
for i, name in ipairs(KEYS) do
  local kind = redis.call('TYPE', name).ok
  if kind ~= 'none' and kind ~= ARGV[i + 2] then
    redis.call('RENAME', name, ARGV[1] .. name)
    redis.call('EXPIRE', ARGV[1] .. name, ARGV[2])
    moved[#moved + 1] = { name, kind }
  end
end
return moved

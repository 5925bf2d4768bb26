-- The newest of the open jobs. (SORT ... BY would do the same, but needs the right to read every key of the server.)
--
-- KEYS  1 open index
-- ARGV  1 prefix of a job's record  2 how many
-- Returns their ids. Members that are no jobs count as the oldest.

local jobs = {}
for i, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local created = redis.pcall('HGET', ARGV[1] .. id, 'created_ms')
  jobs[i] = { id, type(created) == 'string' and tonumber(created) or 0 }
end
table.sort(jobs, function(a, b) return a[2] > b[2] end)
local newest = {}
for i = 1, math.min(#jobs, tonumber(ARGV[2])) do newest[i] = jobs[i][1] end
return newest

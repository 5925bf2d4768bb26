-- Looks who is next: the first job of the first lane of the round. Claims nothing: two workers may see the same job, one
-- of them gets it, and the other looks again.
--
-- KEYS  1 lanes of the model  2 open index
-- ARGV  1 what the key of a job begins with  2 id of a job that could not be claimed, or ''
--       3 ms until the reaper looks at such a job
-- Returns the id, or nil if no job waits

local round = KEYS[1] .. '#round'
while true do
  local lane = redis.call('ZRANGE', round, 0, 0)[1]
  if not lane then return nil end
  local id = redis.pcall('ZRANGE', KEYS[1] .. '#' .. lane, 0, 0)[1]
  if not id then
    redis.call('ZREM', round, lane)
  elseif id ~= ARGV[2] and redis.pcall('HGET', ARGV[1] .. id, 'state') == 'queued' then
    return id
  else
    -- A record that nobody can claim must not hold up its lane. The reaper's look at it decides (look.lua). Until then
    -- it waits outside of the lanes (missing_bells.lua).
    redis.call('HDEL', KEYS[1], 'idle_ms')
    redis.call('ZREM', KEYS[1] .. '#' .. lane, id)
    redis.call('ZADD', KEYS[2], 'XX', 'LT', now_ms() + ARGV[3], id)
    -- One that is no record any more is looked at by nobody: it has waited for the last time.
    if redis.call('TYPE', ARGV[1] .. id).ok ~= 'hash' then count_gone(KEYS[1]) end
  end
end

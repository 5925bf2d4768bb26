-- Sets the cancel flag. A running job sees it at its next emit, a queued one is closed by the caller.
--
-- KEYS  1 job  2 open index
-- ARGV  1 id
-- Returns {state or 'gone', fence}

whatever_the_memory(KEYS[1])
local s = redis.call('HMGET', KEYS[1], 'state', 'fence')
if not s[1] then return { 'gone', 0 } end
if not TERMINAL[s[1]] then
  redis.call('HSET', KEYS[1], 'cancel', 1)
  -- If the caller dies before it has closed a queued job, the reaper finds it at once.
  if s[1] == 'queued' then redis.call('ZADD', KEYS[2], now_ms(), ARGV[1]) end
end
return { s[1], tonumber(s[2]) }

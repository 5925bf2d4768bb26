-- running -> running: ends the lease of a job whose owner is known to be dead, so that the next reaper takes it at once.
--
-- KEYS  1 job  2 open index
-- ARGV  1 id  2 worker id
-- Returns 1, or 0 if that worker does not hold the job (any more): then nothing was changed

whatever_the_memory(KEYS[1])
local s = redis.call('HMGET', KEYS[1], 'owner', 'state', 'lease_ms')
if s[1] ~= ARGV[2] or s[2] ~= 'running' then return 0 end
local now = now_ms()
if (number(s[3]) or now + 1) > now then
  redis.call('HSET', KEYS[1], 'lease_ms', now)
  redis.call('ZADD', KEYS[2], now, ARGV[1])
end
return 1

-- running -> running: ends the lease of a job whose owner is known to be dead, so that the next reaper takes it at once.
--
-- KEYS  1 job  2 open index  3 ms of the last turn of any reaper
-- ARGV  1 id  2 worker id
-- Returns 1, or 0 if that worker does not hold the job (any more): then nothing was changed

whatever_the_memory(KEYS[1])
local s = redis.call('HMGET', KEYS[1], 'owner', 'state', 'lease_ms', 'lease_for_ms')
if s[1] ~= ARGV[2] or s[2] ~= 'running' then return 0 end
local now = now_ms()
if (number(s[3]) or now + 1) > now then
  local last = away_since(KEYS[3], now)
  local ended = last and last - 1 or now -- before an absence of Redis, which is made up for to the living only
  -- A shorter lease, so that its beginning is still the last sign of life (timelines.py).
  local alive = (number(s[3]) or ended) - (number(s[4]) or 0)
  redis.call('HSET', KEYS[1], 'lease_ms', ended, 'lease_for_ms', math.max(0, ended - alive))
  redis.call('ZADD', KEYS[2], ended, ARGV[1])
end
return 1

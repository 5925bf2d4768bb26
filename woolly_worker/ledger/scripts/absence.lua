-- The reaper's first word in every turn: for leases, the time does not count in which Redis was away. Whoever holds one
-- has as much left of it now as when Redis was heard last, and is not taken for lost before that.
--
-- KEYS  1 ms of the last turn of any reaper  2 open index
-- ARGV  1 what the key of a job begins with
-- Returns {ms of an absence that is over, or 0, number of leases that would have run out in it}

whatever_the_memory(KEYS[1])
local now = now_ms()
local last = away_since(KEYS[1], now)
redis.call('SET', KEYS[1], now)
if not last then return { 0, 0 } end
local n = 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], last, now)) do
  local job = ARGV[1] .. id
  local s = redis.pcall('HMGET', job, 'state', 'lease_ms', 'lease_for_ms')
  local lease = number(s[2])
  if s[1] == 'running' and lease then -- else damaged: the look at open jobs says so
    lease = math.min(lease + (now - last), now + (number(s[3]) or 0))
    redis.call('HSET', job, 'lease_ms', lease)
    redis.call('ZADD', KEYS[2], lease, id)
    n = n + 1
  end
end
return { now - last, n }

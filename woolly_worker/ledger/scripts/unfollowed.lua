-- The reaper's look at jobs that run for a client who waits. Asks for the end of those that nobody has followed for two
-- looks in a row.
--
-- KEYS  1 followed index  2 open index
-- ARGV  1 what the keys of all jobs begin with  2 most jobs to look at  3 ms for which Redis was away before this turn:
--       followers need a moment to subscribe again, so nothing is concluded from a look then
-- Returns their ids. A queued one is due at once for the look that closes it, a running one ends at its next emit.

whatever_the_memory(KEYS[1])
local now = now_ms()
local abandoned = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[2])) do
  local job = ARGV[1] .. id
  local s = redis.pcall('HMGET', job, 'state', 'grace_ms', 'alone_ms')
  local state, grace, alone = s[1], number(s[2]), number(s[3])
  if s.err or not state or TERMINAL[state] or not grace then
    redis.call('ZREM', KEYS[1], id) -- ended, gone, or damaged: then the look at open jobs says so
  elseif ARGV[3] ~= '0' or redis.call('PUBSUB', 'NUMSUB', job)[2] > 0 then -- the channel of a job has the name of its record
    redis.call('HDEL', job, 'alone_ms')
    redis.call('ZADD', KEYS[1], now + grace, id)
  elseif not alone then
    redis.call('HSET', job, 'alone_ms', now)
    redis.call('ZADD', KEYS[1], now + grace, id)
  else
    redis.call('HSET', job, 'cancel', 1, 'abandoned', 1)
    redis.call('ZREM', KEYS[1], id)
    if state == 'queued' then redis.call('ZADD', KEYS[2], now, id) end
    abandoned[#abandoned + 1] = id
  end
end
return abandoned

-- Whether this reaper may reap now: one at a time, over all processes. Also on a server without memory, where nothing else
-- would heal.
--
-- KEYS  1 the mutex
-- ARGV  1 who asks  2 ms of a turn
-- Returns 1 | 0

whatever_the_memory(KEYS[1])
return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0

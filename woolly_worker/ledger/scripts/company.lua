-- running -> running: the owner has computed this job alone for long enough, and others go on as soon as this is written.
-- A worker that is lost with the flag set was lost by this job.
--
-- KEYS  1 job  2 open index
-- ARGV  1 id  2 fence  3 lease ms
-- Returns 'ok' | 'cancelled' | 'fenced', as emit.lua, and renews the lease as it does. Again is the same.

whatever_the_memory(KEYS[1])
local s = redis.call('HMGET', KEYS[1], 'fence', 'state', 'cancel')
if s[1] ~= ARGV[2] or s[2] ~= 'running' then return 'fenced' end
local lease = now_ms() + ARGV[3]
redis.call('HSET', KEYS[1], 'alone', 0, 'lease_ms', lease)
redis.call('ZADD', KEYS[2], lease, ARGV[1])
return s[3] == '1' and 'cancelled' or 'ok'

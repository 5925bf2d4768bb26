-- running -> running: the owner says whether it computes this job and nothing else from now on. Written before that
-- begins and again before it ends, so that a worker lost with the flag set was lost by this job.
--
-- KEYS  1 job  2 open index
-- ARGV  1 id  2 fence  3 '1' | '0'  4 lease ms
-- Returns 'ok' | 'cancelled' | 'fenced', as emit.lua, and renews the lease as it does. Again is the same.

whatever_the_memory(KEYS[1])
local s = redis.call('HMGET', KEYS[1], 'fence', 'state', 'cancel')
if s[1] ~= ARGV[2] or s[2] ~= 'running' then return 'fenced' end
local lease = now_ms() + ARGV[4]
redis.call('HSET', KEYS[1], 'alone', ARGV[3], 'lease_ms', lease)
redis.call('ZADD', KEYS[2], lease, ARGV[1])
return s[3] == '1' and 'cancelled' or 'ok'

-- queued -> failed | cancelled | expired: the end of a job that nobody owns (cancelled while it waited, past its
-- deadline, or poison). The caller read the stream to compose the result; the fence it read proves that nobody
-- has claimed the job, and so written to the stream, since.
--
-- KEYS  1 job  2 events  3 open index  4 finished index  5 lanes of the model
-- ARGV  1 id  2 fence  3 new state  4 seq of the terminal event  5 its JSON  6 result JSON  7 ms to keep the record
--       8 closing id, unique per attempt to close
-- Returns 'ok' | 'fenced' (claimed in between, or already closed). The same closing id again (its reply was lost) is
-- 'ok'.

whatever_the_memory(KEYS[1])
local s = redis.call('HMGET', KEYS[1], 'fence', 'state', 'seq', 'lane', 'claim')
if TERMINAL[s[2]] and s[5] == ARGV[8] then return 'ok' end
if s[1] ~= ARGV[2] or s[2] ~= 'queued' or tonumber(ARGV[4]) ~= tonumber(s[3]) + 1 then return 'fenced' end
write_terminal(ARGV[1], KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], s[4], 'queued', ARGV[3],
  ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7]), now_ms())
redis.call('HSET', KEYS[1], 'claim', ARGV[8])
return 'ok'

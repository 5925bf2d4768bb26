-- running -> succeeded | failed | cancelled | expired, by the owner of the job.
--
-- KEYS  1 job  2 events  3 open index  4 finished index  5 lanes of the model
-- ARGV  1 id  2 fence  3 new state  4 seq of the terminal event  5 its JSON  6 result JSON  7 ms to keep the record
--       8 what the worker measured (timelines.py), or ''
-- Returns 'ok' | 'fenced' | 'gap', as emit.lua. The same fence again (its reply was lost) is 'ok'.

whatever_the_memory(KEYS[1])
local s = redis.call('HMGET', KEYS[1], 'fence', 'state', 'seq', 'lane', 'end_seq')
if s[1] ~= ARGV[2] then return 'fenced' end
if s[2] == ARGV[3] and s[5] == ARGV[4] then return 'ok' end
if s[2] ~= 'running' then return 'fenced' end
if tonumber(ARGV[4]) ~= tonumber(s[3]) + 1 then return 'gap' end
local now = now_ms()
note_attempt(KEYS[1], 'ended', now, ARGV[8])
write_terminal(ARGV[1], KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], s[4], 'running', ARGV[3],
  ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7]), now)
return 'ok'

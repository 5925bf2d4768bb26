-- running -> queued, by the owner: a worker that shuts down gives its jobs back. This is not a crash.
--
-- KEYS  1 job  2 open index  3 lanes of the model
-- ARGV  1 id  2 fence  3 ms until the reaper looks whether it still waits  4 what the worker measured (timelines.py),
--       or ''
-- Returns {'ok', number of the bell to ring} | {'fenced'}. The same fence again (its reply was lost) is 'ok'.

whatever_the_memory(KEYS[1])
local s = redis.call('HMGET', KEYS[1], 'fence', 'state', 'lane', 'attempts', 'bells', 'cancel', 'deadline_ms')
if s[1] ~= ARGV[2] then return { 'fenced' } end
if s[2] == 'queued' then return { 'ok', tonumber(s[5]) } end
if s[2] ~= 'running' then return { 'fenced' } end
local now = now_ms()
note_attempt(KEYS[1], 'released', now, ARGV[4])
move(KEYS[1], KEYS[3], s[3], 'running', 'queued')
redis.call('HSET', KEYS[1], 'owner', '', 'claim', '', 'lease_ms', 0, 'queued_ms', now, 'alone', 0)
redis.call('ZADD', KEYS[2], next_look(now, ARGV[3], s[6], s[7]), ARGV[1])
publish_state(KEYS[1], 'queued', s[4])
return { 'ok', next_bell(KEYS[1]) }

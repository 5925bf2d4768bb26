-- running -> queued, by the owner: a worker that shuts down gives its jobs back. This is not a crash.
--
-- KEYS  1 job  2 open index  3 lanes of the model
-- ARGV  1 id  2 fence  3 ms until the reaper may look for a lost bell
-- Returns 'ok' | 'fenced'. The same fence again (its reply was lost) is 'ok'.

local s = redis.call('HMGET', KEYS[1], 'fence', 'state', 'lane', 'priority', 'attempts')
if s[1] ~= ARGV[2] then return 'fenced' end
if s[2] == 'queued' then return 'ok' end
if s[2] ~= 'running' then return 'fenced' end
local now = now_ms()
move(KEYS[1], KEYS[3], s[3], 'running', 'queued')
-- Celery puts the message back to the front of its lane. The job's place is before every bell that has not been
-- answered, so its bell counts as lost only when a later one is answered.
local high = redis.call('HGET', KEYS[3], 'l' .. s[3] .. ':p' .. s[4] .. ':claimed') or '0'
redis.call('HSET', KEYS[1], 'owner', '', 'claim', '', 'lease_ms', 0, 'queued_ms', now, 'enq', high)
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[1])
publish_state(KEYS[1], 'queued', s[5])
return 'ok'

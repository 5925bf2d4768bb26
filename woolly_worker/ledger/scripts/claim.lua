-- queued -> running, for one worker, under a new fence. Every duplicate that Celery can deliver ends here.
--
-- KEYS  1 job  2 open index  3 lanes of the model
-- ARGV  1 id  2 owner (worker id)  3 claim id, unique per attempt to claim  4 lease ms  5 most crashes
-- Returns {outcome, fence, seq, attempts, crashes, now ms}. Outcomes:
--   claimed    the caller owns the job; the same claim id again (its reply was lost) gets the same answer
--   gone       no such record          terminal  it has ended         busy  a live lease is held
--   cancelled, expired, poison         it must not run; the caller closes it (close.lua) under this fence

local s = redis.call('HMGET', KEYS[1], 'state', 'lease_ms', 'claim', 'fence', 'seq', 'cancel', 'deadline_ms',
  'lane', 'priority', 'enq', 'attempts', 'crashes', 'started_ms')
local state, lease, lane = s[1], tonumber(s[2]), s[8]
if not state then return { 'gone', 0, 0, 0, 0, 0 } end

local now = now_ms()
local fence, seq, attempts, crashes = tonumber(s[4]), tonumber(s[5]), tonumber(s[11]), tonumber(s[12])
if TERMINAL[state] then return { 'terminal', fence, seq, attempts, crashes, now } end
if state == 'running' then
  if s[3] == ARGV[3] then return { 'claimed', fence, seq, attempts, crashes, now } end
  if lease > now then return { 'busy', fence, seq, attempts, crashes, now } end
  crashes = lose_lease(KEYS[1], KEYS[3], lane, now)
end

local refused = nil
if s[6] == '1' then
  refused = 'cancelled'
elseif tonumber(s[7]) > 0 and tonumber(s[7]) <= now then
  refused = 'expired'
elseif crashes > tonumber(ARGV[5]) then
  refused = 'poison'
end
if refused then
  -- If the caller dies before it has closed the job, the reaper finds it at once.
  redis.call('ZADD', KEYS[2], now, ARGV[1])
  return { refused, fence, seq, attempts, crashes, now }
end

redis.call('HSET', KEYS[1], 'lease_for_ms', ARGV[4])
fence = redis.call('HINCRBY', KEYS[1], 'fence', 1)
attempts = redis.call('HINCRBY', KEYS[1], 'attempts', 1)
redis.call('HSET', KEYS[1], 'owner', ARGV[2], 'claim', ARGV[3], 'lease_ms', now + ARGV[4], 'claimed_ms', now)
if not s[13] then redis.call('HSET', KEYS[1], 'started_ms', now) end
move(KEYS[1], KEYS[3], lane, 'queued', 'running')
redis.call('ZADD', KEYS[2], now + ARGV[4], ARGV[1])

local high = 'l' .. lane .. ':p' .. s[9] .. ':claimed'
if tonumber(s[10]) > tonumber(redis.call('HGET', KEYS[3], high) or '0') then
  redis.call('HSET', KEYS[3], high, s[10])
end
publish_state(KEYS[1], 'running', attempts)
return { 'claimed', fence, seq, attempts, crashes, now }

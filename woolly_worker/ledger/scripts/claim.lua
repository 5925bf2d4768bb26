-- queued -> running, for one worker, under a new fence. Every duplicate that Celery can deliver ends here.
--
-- KEYS  1 job  2 open index  3 lanes of the model  4 ms of the last turn of any reaper
-- ARGV  1 id  2 owner (worker id)  3 claim id, unique per attempt to claim  4 lease ms  5 crashes that convict
--       6 recipe of the owner  7 '1' if the owner works on nothing else, or '0'  8 by how much the fence grows
-- Returns {outcome, fence, seq, attempts, crashes, now ms, the number of tokens until which a claimed job has to be computed
-- alone, or '', and owner and attempt of a worker that was lost, or '' and 0}. Outcomes:
--   claimed    the caller owns the job; the same claim id again (its reply was lost) gets the same answer
--   suspect    it was there when workers were lost: only for an owner that works on nothing else
--   gone       no such record          terminal  it has ended         busy  a live lease is held, or one that
--              nobody could renew
--   other_recipe                       it has tokens of another recipe; the reaper offers it again in a second
--   newer      its request is newer than this program (versions.py); likewise
--   cancelled, expired, poison         it must not run; the caller closes it (close.lua) under this fence

whatever_the_memory(KEYS[1])
local s = redis.call('HMGET', KEYS[1], 'state', 'lease_ms', 'claim', 'fence', 'seq', 'cancel', 'deadline_ms',
  'lane', 'attempts', 'crashes', 'started_ms', 'alone', 'recipe', 'version', 'unserved_ms')
local state, lease, lane = s[1], tonumber(s[2]), s[8]
if not state then return { 'gone', 0, 0, 0, 0, 0, '', '', 0 } end

local now, lost, lost_attempt = now_ms(), '', 0
local fence, seq, attempts, crashes = tonumber(s[4]), tonumber(s[5]), tonumber(s[9]), tonumber(s[10])
local function answer(outcome, until_tokens)
  return { outcome, fence, seq, attempts, crashes, now, until_tokens or '', lost or '', lost_attempt }
end
if TERMINAL[state] then return answer('terminal') end
if state == 'running' then
  if s[3] == ARGV[3] then return answer('claimed', alone_until(KEYS[1], seq, ARGV[5])) end
  if lease > now or away_since(KEYS[4], now) then return answer('busy') end
  crashes, lost, lost_attempt = lose_lease(KEYS[1], KEYS[3], lane, now)
end

local refused = nil
if s[6] == '1' then
  refused = 'cancelled'
elseif tonumber(s[7]) > 0 and tonumber(s[7]) <= now then
  refused = 'expired'
elseif is_poison(crashes, ARGV[5], s[12]) then
  refused = 'poison'
end
if refused then
  -- If the caller dies before it has closed the job, the reaper finds it at once.
  redis.call('ZADD', KEYS[2], now, ARGV[1])
  return answer(refused)
end

-- Other weights would say something else from here on. Since when nobody was found who has them: Ledger.strand.
if seq > 0 and s[13] and s[13] ~= ARGV[6] then
  if not number(s[15]) then redis.call('HSET', KEYS[1], 'unserved_ms', now) end
  redis.call('ZADD', KEYS[2], now + 1000, ARGV[1])
  return answer('other_recipe')
end

if tonumber(s[14] or '1') > RECORD_VERSION then
  redis.call('ZADD', KEYS[2], now + 1000, ARGV[1])
  return answer('newer')
end

-- The flag is written with the claim, before anybody looks at what was asked for: from here on a loss is this job's.
local until_tokens = alone_until(KEYS[1], seq, ARGV[5])
if until_tokens and ARGV[7] ~= '1' then return answer('suspect') end

fence = redis.call('HINCRBY', KEYS[1], 'fence', ARGV[8])
attempts = redis.call('HINCRBY', KEYS[1], 'attempts', 1)
redis.call('HSET', KEYS[1], 'owner', ARGV[2], 'claim', ARGV[3], 'lease_ms', now + ARGV[4], 'claimed_ms', now,
  'lease_for_ms', ARGV[4], 'alone', until_tokens and 1 or 0, 'recipe', ARGV[6])
redis.call('HDEL', KEYS[1], 'unserved_ms')
if not s[11] then redis.call('HSET', KEYS[1], 'started_ms', now) end
move(KEYS[1], KEYS[3], lane, 'queued', 'running')
redis.call('ZADD', KEYS[2], now + ARGV[4], ARGV[1])
publish_state(KEYS[1], 'running', attempts)
return answer('claimed', until_tokens)

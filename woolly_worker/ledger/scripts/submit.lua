-- nothing -> queued. Record and open-index in one step; the bell is rung afterwards, by the caller.
--
-- KEYS  1 job  2 open index  3 lanes of the model  4 followed index  5 idempotency key, if there is one
-- ARGV  1 id  2 model  3 lane  4 priority  5 tenant  6 metadata JSON  7 request JSON
--       8 deadline, ms from now, or ''  9 ms until the reaper looks whether it still waits
--       10 most queued jobs of this model, or ''  11 tokens that the job may take  12 most queued tokens, or ''
--       13 ms that it may be without a follower, or '' if it needs none  14 digest of the body, with KEYS 5
-- Returns {'submitted', number of this bell} | {'exists', 0} the same id was submitted before (a repeated call)
--         | {'replayed', id} the key was used before, with this body, for the job of this id
--         | {'reused', id} likewise, but with another body
--         | {'full', jobs queued now} | {'full_tokens', tokens queued now}
--         | {'memory', bytes used, bytes from which on no job is taken}

if redis.call('EXISTS', KEYS[1]) == 1 then return { 'exists', 0 } end

-- Before the limits: what was accepted once is not refused the second time. A key is free again when its record is gone
-- or its job was cancelled because nobody followed it, or failed in a way that says "ask again".
if KEYS[5] then
  local first = redis.pcall('HMGET', KEYS[5], 'job', 'digest') -- of another type it is none of ours: replaced
  local record = first[1] and string.sub(KEYS[1], 1, -1 - #ARGV[1]) .. first[1]
  local s = record and redis.pcall('HMGET', record, 'state', 'abandoned', 'result')
  local again = s and s[1] == 'failed' and string.find(s[3] or '', '"retryable":true', 1, true)
  if s and s[1] and not s[2] and not again then
    if first[2] ~= ARGV[14] then return { 'reused', first[1] } end
    redis.call('HDEL', record, 'alone_ms')
    return { 'replayed', first[1] }
  end
end

if ARGV[10] ~= '' then
  local queued = number(redis.call('HGET', KEYS[3], 'all:queued')) or 0
  if queued >= tonumber(ARGV[10]) then return { 'full', queued } end
end
if ARGV[12] ~= '' then
  -- A job that is above the limit by itself is taken when nothing waits: later it would not fit either.
  local queued = number(redis.call('HGET', KEYS[3], 'all:queued_tokens')) or 0
  if queued > 0 and queued + ARGV[11] > tonumber(ARGV[12]) then return { 'full_tokens', queued } end
end

-- A server at its maxmemory refuses what needs memory. The last tenth is for jobs that are accepted already: their tokens
-- and results, bells, heartbeats.
local info = redis.call('INFO', 'memory')
local function bytes(name)
  return tonumber(info:match('\n' .. name .. ':(%d+)') or '0')
end
local used, limit = bytes('used_memory') - bytes('mem_not_counted_for_evict'), math.floor(0.9 * bytes('maxmemory'))
if limit > 0 and used > limit then return { 'memory', used, limit } end

local now = now_ms()
local deadline = 0
if ARGV[8] ~= '' then deadline = now + tonumber(ARGV[8]) end

-- First what may fail, at a key of another type: then nothing is left of a job that was not submitted.
join(KEYS[3], ARGV[3], ARGV[1])
count(KEYS[3], 'queued', 1)
redis.call('HSET', KEYS[1],
  'id', ARGV[1], 'model', ARGV[2], 'lane', ARGV[3], 'priority', ARGV[4], 'tenant', ARGV[5], 'metadata', ARGV[6],
  'request', ARGV[7], 'state', 'queued', 'attempts', 0, 'crashes', 0, 'fence', 0, 'owner', '', 'claim', '',
  'lease_ms', 0, 'seq', 0, 'cancel', 0, 'created_ms', now, 'queued_ms', now, 'deadline_ms', deadline,
  'cost', ARGV[11], 'version', RECORD_VERSION)
local bell = next_bell(KEYS[1])
count_tokens(KEYS[1], KEYS[3], 1)

if KEYS[5] then
  redis.call('DEL', KEYS[5]) -- and with it the end that an earlier job may have set
  redis.call('HSET', KEYS[5], 'job', ARGV[1], 'digest', ARGV[14])
  redis.call('HSET', KEYS[1], 'once', KEYS[5])
end
if ARGV[13] ~= '' then
  redis.call('HSET', KEYS[1], 'grace_ms', ARGV[13])
  redis.call('ZADD', KEYS[4], now + tonumber(ARGV[13]), ARGV[1])
end

redis.call('ZADD', KEYS[2], next_look(now, ARGV[9], nil, deadline), ARGV[1])
publish_state(KEYS[1], 'queued', 0)
return { 'submitted', bell }

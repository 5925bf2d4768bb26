-- nothing -> queued. Record and open-index in one step; the bell is rung afterwards, by the caller.
--
-- KEYS  1 job  2 open index  3 lanes of the model
-- ARGV  1 id  2 model  3 lane  4 priority  5 tenant  6 metadata JSON  7 request JSON
--       8 deadline, ms from now, or ''  9 ms until the reaper may look for a lost bell
--       10 most queued jobs of this model, or ''
-- Returns {'submitted', number of this bell} | {'exists', 0} the same id was submitted before (a repeated call)
--         | {'full', jobs queued now}

if redis.call('EXISTS', KEYS[1]) == 1 then return { 'exists', 0 } end

if ARGV[10] ~= '' then
  local queued = tonumber(redis.call('HGET', KEYS[3], 'all:queued') or '0')
  if queued >= tonumber(ARGV[10]) then return { 'full', queued } end
end

local now = now_ms()
local deadline = 0
if ARGV[8] ~= '' then deadline = now + tonumber(ARGV[8]) end

redis.call('HSET', KEYS[1],
  'id', ARGV[1], 'model', ARGV[2], 'lane', ARGV[3], 'priority', ARGV[4], 'tenant', ARGV[5], 'metadata', ARGV[6],
  'request', ARGV[7], 'state', 'queued', 'attempts', 0, 'crashes', 0, 'fence', 0, 'owner', '', 'claim', '',
  'lease_ms', 0, 'seq', 0, 'cancel', 0, 'created_ms', now, 'queued_ms', now, 'deadline_ms', deadline,
  'version', RECORD_VERSION)
local bell = enqueue(KEYS[1], KEYS[3], ARGV[3], ARGV[4])
count(KEYS[3], ARGV[3], 'queued', 1)

local look = now + tonumber(ARGV[9])
if deadline > 0 and deadline < look then look = deadline end
redis.call('ZADD', KEYS[2], look, ARGV[1])
publish_state(KEYS[1], 'queued', 0)
return { 'submitted', bell }

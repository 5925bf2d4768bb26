-- The reaper's look at one open job that is due. running -> queued if its lease has run out.
--
-- KEYS  1 job  2 open index  3 lanes of the model  4 the list of bells of its lane and priority
-- ARGV  1 id  2 ms until the next look for a lost bell  3 crashes that convict
-- Returns {verdict, fence, number of its bell}. Verdicts:
--   wait       nothing to do; looked at again in time
--   ring       its bell was lost: ring it again
--   resume     its worker was lost: ring it again, best at the front, because somebody may be reading its stream
--   cancelled, expired, poison    the caller closes it (close.lua) under this fence
--   gone       no record, or it has ended: taken out of the index

local s = redis.call('HMGET', KEYS[1], 'state', 'fence', 'lease_ms', 'lane', 'priority', 'enq', 'cancel',
  'deadline_ms', 'crashes', 'alone')
local state, fence, lane, priority = s[1], tonumber(s[2]), s[4], s[5]
if not state or TERMINAL[state] then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return { 'gone', 0, 0 }
end

local now = now_ms()
local crashes, deadline, lost = tonumber(s[9]), tonumber(s[8]), false
if state == 'running' then
  local lease = tonumber(s[3])
  if lease > now then
    redis.call('ZADD', KEYS[2], lease, ARGV[1])
    return { 'wait', fence, 0 }
  end
  crashes = lose_lease(KEYS[1], KEYS[3], lane, now)
  lost = true
end

if s[7] == '1' then return { 'cancelled', fence, 0 } end
if deadline > 0 and deadline <= now then return { 'expired', fence, 0 } end
if is_poison(crashes, ARGV[3], s[10]) then return { 'poison', fence, 0 } end

local due = now + tonumber(ARGV[2])
if deadline > 0 and deadline < due then due = deadline end
redis.call('ZADD', KEYS[2], due, ARGV[1])

-- A deep backlog is not rung again: its bells are lost only if the list is empty or a later one was answered.
local claimed = tonumber(redis.call('HGET', KEYS[3], 'l' .. lane .. ':p' .. priority .. ':claimed') or '0')
if lost or claimed > tonumber(s[6]) or redis.call('LLEN', KEYS[4]) == 0 then
  return { lost and 'resume' or 'ring', fence, enqueue(KEYS[1], KEYS[3], lane, priority) }
end
return { 'wait', fence, 0 }

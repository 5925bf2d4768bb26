-- The reaper's look at one open job that is due. running -> queued if its lease has run out.
--
-- KEYS  1 job  2 open index  3 lanes of the model
-- ARGV  1 id  2 ms until the next look whether it still waits  3 crashes that convict
-- Returns {verdict, fence, number of its bell or 0, and owner and attempt of a worker that was lost, or '' and 0}. Verdicts:
--   wait       nothing to do; looked at again in time
--   resume     its worker was lost: ring it again; it is ahead of others now, somebody may be reading its stream
--   cancelled, expired, poison    the caller closes it (close.lua) under this fence
--   gone       no record, or it has ended: taken out of the index

whatever_the_memory(KEYS[1])
local s = redis.call('HMGET', KEYS[1], 'state', 'fence', 'lease_ms', 'lane', 'cancel', 'deadline_ms',
  'crashes', 'alone', 'attempts')
local state, fence, lane = s[1], tonumber(s[2]), s[4]
if not state or TERMINAL[state] then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return { 'gone', 0, 0, '', 0 }
end

local now, lost, lost_attempt = now_ms(), '', 0
local crashes, deadline = tonumber(s[7]), tonumber(s[6])
local function answer(verdict, bell)
  return { verdict, fence, bell or 0, lost or '', lost_attempt }
end
if state == 'running' then
  local lease = tonumber(s[3])
  if lease > now then
    redis.call('ZADD', KEYS[2], lease, ARGV[1])
    return answer('wait')
  end
  crashes, lost, lost_attempt = lose_lease(KEYS[1], KEYS[3], lane, now)
end

if s[5] == '1' then return answer('cancelled') end
if deadline > 0 and deadline <= now then return answer('expired') end
if is_poison(crashes, ARGV[3], s[8]) then return answer('poison') end

redis.call('ZADD', KEYS[2], next_look(now, ARGV[2], s[5], s[6]), ARGV[1])
if state == 'running' then return answer('resume', next_bell(KEYS[1])) end
-- A worker that could not read its record has put it aside (next.lua). Perhaps the next one can.
if not (redis.call('ZSCORE', KEYS[3] .. '#' .. lane, ARGV[1])
  or redis.call('ZSCORE', KEYS[3] .. '#' .. front_of(lane), ARGV[1])) then
  join(KEYS[3], s[9] == '0' and lane or front_of(lane), ARGV[1])
  -- If it was away for long, the gauge was put right without it (missing_bells.lua).
  local waiting = in_lanes(KEYS[3])
  if (number(redis.call('HGET', KEYS[3], 'all:queued')) or 0) < waiting then
    redis.call('HSET', KEYS[3], 'all:queued', waiting)
  end
end
return answer('wait')

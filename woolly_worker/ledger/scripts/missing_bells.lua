-- The reaper's look at the bells of a model. Every queued job is due one; whichever of them is answered serves the job
-- that is next, so it does not matter whose bell was lost, only how many.
--
-- KEYS  1 lanes of the model  2 its list of bells  3 open index
-- ARGV  1 what the key of a job begins with  2 ms for which bells must have been missing: one that was sent or taken just
--       now is in no list  3 most bells  4 ms after which a job that was put aside is in its lane again
-- Returns {{id, number of the bell to ring}, ...}, those who are next first

whatever_the_memory(KEYS[1])
local round = KEYS[1] .. '#round'
local now = now_ms()
-- Vanished records leave their numbers in the gauges. Whoever waits is in a lane, or put aside (next.lua), and whoever
-- waits or runs is in the index. So a model in which nobody waits for a while has its queued gauges put right, whatever
-- the others do; that of the running ones is right again when no job of any model is open.
local s = redis.call('HMGET', KEYS[1], 'all:queued', 'all:queued_tokens', 'all:running', 'idle_ms')
local nobody_waits, idle_since = redis.call('EXISTS', round) == 0, number(s[4])
local nobody_is_there = nobody_waits and redis.call('ZCARD', KEYS[3]) == 0
if nobody_is_there and (s[3] or '0') ~= '0' then redis.call('HSET', KEYS[1], 'all:running', 0) end
if nobody_waits and ((s[1] or '0') ~= '0' or (s[2] or '0') ~= '0') then
  if nobody_is_there or (idle_since and idle_since + ARGV[4] <= now) then
    redis.call('HSET', KEYS[1], 'all:queued', 0, 'all:queued_tokens', 0)
    redis.call('HDEL', KEYS[1], 'idle_ms')
  elseif not idle_since or idle_since > now then -- just now, or by a clock that has been set back since
    redis.call('HSET', KEYS[1], 'idle_ms', now)
  end
elseif s[4] then
  redis.call('HDEL', KEYS[1], 'idle_ms')
end
local queued = number(redis.call('HGET', KEYS[1], 'all:queued') or '0')
if not queued then -- somebody else's word, which nobody can count with: those who wait are in the lanes
  queued = in_lanes(KEYS[1])
  redis.call('HSET', KEYS[1], 'all:queued', queued)
end
local missing = queued - redis.call('LLEN', KEYS[2])
if missing < -1000 then redis.call('LTRIM', KEYS[2], 0, queued + 999) end -- of jobs that were cancelled as they waited
if missing <= 0 then
  redis.call('HDEL', KEYS[1], 'short_ms')
  return {}
end
local since = number(redis.call('HGET', KEYS[1], 'short_ms'))
local seen = since and since <= now -- else for the first time, or by a clock that has been set back since
if seen and since + ARGV[2] > now then return {} end
redis.call('HSET', KEYS[1], 'short_ms', now)
if not seen then return {} end

local bells, most = {}, math.min(missing, tonumber(ARGV[3]))
for _, lane in ipairs(redis.call('ZRANGE', round, 0, most - 1)) do
  for _, id in ipairs(redis.pcall('ZRANGE', KEYS[1] .. '#' .. lane, 0, most - 1)) do
    if #bells == most then return bells end
    local job = ARGV[1] .. id
    if redis.call('EXISTS', job) == 1 then
      local bell = redis.pcall('HINCRBY', job, 'bells', 1)
      if type(bell) == 'number' then bells[#bells + 1] = { id, bell } end -- else damaged: its claim says so
    end
  end
end
return bells

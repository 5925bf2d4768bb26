-- The reaper's look at the bells of a model. Every queued job is due one; whichever of them is answered serves the job
-- that is next, so it does not matter whose bell was lost, only how many.
--
-- KEYS  1 lanes of the model  2 its list of bells
-- ARGV  1 what the key of a job begins with  2 ms for which bells must have been missing: one that was sent or taken just
--       now is in no list  3 most bells
-- Returns {{id, number of the bell to ring}, ...}, those who are next first

local missing = tonumber(redis.call('HGET', KEYS[1], 'all:queued') or '0') - redis.call('LLEN', KEYS[2])
if missing <= 0 then
  redis.call('HDEL', KEYS[1], 'short_ms')
  return {}
end
local now, since = now_ms(), redis.call('HGET', KEYS[1], 'short_ms')
if since and since + ARGV[2] > now then return {} end
redis.call('HSET', KEYS[1], 'short_ms', now)
if not since then return {} end

local bells, most = {}, math.min(missing, tonumber(ARGV[3]))
for _, lane in ipairs(redis.call('ZRANGE', KEYS[1] .. '#round', 0, most - 1)) do
  for _, id in ipairs(redis.call('ZRANGE', KEYS[1] .. '#' .. lane, 0, most - 1)) do
    if #bells == most then return bells end
    local job = ARGV[1] .. id
    if redis.call('EXISTS', job) == 1 then bells[#bells + 1] = { id, next_bell(job) } end
  end
end
return bells

-- queued | running | nonsense -> failed: the end of a job whose record or stream is damaged, so that no other script
-- can work with it. The caller has read what can still be read. Tokens 1 to n stay in the stream, and whatever else
-- stands there goes, because it may have ids that no terminal event could follow.
--
-- KEYS  1 job  2 events  3 open index  4 finished index  5 lanes of its model, as the record says, then those of all
-- ARGV  1 id  2, 3 fence and seq as read, or ''  4 n  5 terminal event JSON  6 result JSON  7 ms to keep the record
--       8 prefix for what is set aside  9 closing id, unique per attempt to end it, then pairs of a field and its value,
--       for fields that are missing or nonsense
-- Returns 'ok' | 'fenced' (changed since it was read, or ended) | 'aside' (it was no record; kept under another name).
-- The same closing id again (its reply was lost) is 'ok'.

-- Whether it waited, and with which model: the lanes know better than the record.
local function leave_all()
  local left
  for i = 5, #KEYS do
    local round = redis.pcall('ZRANGE', KEYS[i] .. '#round', 0, -1)
    for _, lane in ipairs(round) do
      if redis.pcall('ZREM', KEYS[i] .. '#' .. lane, ARGV[1]) == 1 then
        left = KEYS[i]
        if redis.call('EXISTS', left .. '#' .. lane) == 0 then redis.call('ZREM', left .. '#round', lane) end
      end
    end
  end
  return left
end

local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' then
  redis.call('ZREM', KEYS[3], ARGV[1])
  local waited = leave_all()
  if waited then count_gone(waited) end
  if kind == 'none' then return 'fenced' end
  redis.call('RENAME', KEYS[1], ARGV[8] .. KEYS[1])
  redis.call('PEXPIRE', ARGV[8] .. KEYS[1], ARGV[7])
  redis.call('PEXPIRE', KEYS[2], ARGV[7])
  return 'aside'
end

whatever_the_memory(KEYS[1])
local s = redis.call('HMGET', KEYS[1], 'fence', 'seq', 'state', 'cost', 'once', 'claim')
local old, cost, once = s[3], number(s[4]), s[5]
if TERMINAL[old or ''] and s[6] == ARGV[9] then return 'ok' end
if (s[1] or '') ~= ARGV[2] or (s[2] or '') ~= ARGV[3] or TERMINAL[old or ''] then return 'fenced' end

local kept = {}
if tonumber(ARGV[4]) > 0 then kept = redis.call('XRANGE', KEYS[2], '1-0', ARGV[4] .. '-0') end
redis.call('DEL', KEYS[2])
for _, entry in ipairs(kept) do redis.call('XADD', KEYS[2], entry[1], unpack(entry[2])) end

local last, now = tonumber(ARGV[4]) + 1, now_ms()
redis.call('XADD', KEYS[2], last .. '-0', 'e', ARGV[5])
for i = 10, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], 'state', 'failed', 'seq', ARGV[4], 'end_seq', last, 'result', ARGV[6], 'finished_ms', now,
  'owner', '', 'claim', ARGV[9], 'lease_ms', 0)
redis.call('PUBLISH', KEYS[1], ARGV[5])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[4], now + ARGV[7], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[7])
redis.call('PEXPIRE', KEYS[2], ARGV[7])
if once and redis.pcall('HGET', once, 'job') == ARGV[1] then redis.call('PEXPIRE', once, ARGV[7]) end

local waited = leave_all()
if not waited and old == 'queued' then waited = KEYS[5] end -- a worker that could not read it had put it aside (next.lua)
if waited then
  if cost then
    count(waited, 'queued', -1)
    add(waited, 'all:queued_tokens', -cost)
  else
    count_gone(waited)
  end
  redis.call('HDEL', waited, 'drain:since_ms')
elseif old == 'running' then
  count(KEYS[5], 'running', -1)
end
count(KEYS[5], 'failed', 1)
return 'ok'

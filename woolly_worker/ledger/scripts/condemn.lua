-- queued | running | nonsense -> failed: the end of a job whose record or stream is damaged, so that no other script
-- can work with it. The caller has read what can still be read. Tokens 1 to n stay in the stream, and whatever else
-- stands there goes, because it may have ids that no terminal event could follow.
--
-- KEYS  1 job  2 events  3 open index  4 finished index  5 lanes of the model
-- ARGV  1 id  2, 3 fence and seq as read, or ''  4 n  5 terminal event JSON  6 result JSON  7 ms to keep the record
--       8 prefix for what is set aside, then pairs of a field and its value, for fields that are missing or nonsense
-- Returns 'ok' | 'fenced' (changed since it was read, or ended) | 'aside' (it was no record; kept under another name)

local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' then
  redis.call('ZREM', KEYS[3], ARGV[1])
  if kind == 'none' then return 'fenced' end
  redis.call('RENAME', KEYS[1], ARGV[8] .. KEYS[1])
  redis.call('PEXPIRE', ARGV[8] .. KEYS[1], ARGV[7])
  return 'aside'
end

local s = redis.call('HMGET', KEYS[1], 'fence', 'seq', 'state', 'lane')
local old, lane = s[3], s[4]
if (s[1] or '') ~= ARGV[2] or (s[2] or '') ~= ARGV[3] or TERMINAL[old or ''] then return 'fenced' end

local kept = {}
if tonumber(ARGV[4]) > 0 then kept = redis.call('XRANGE', KEYS[2], '1-0', ARGV[4] .. '-0') end
redis.call('DEL', KEYS[2])
for _, entry in ipairs(kept) do redis.call('XADD', KEYS[2], entry[1], unpack(entry[2])) end

local last, now = tonumber(ARGV[4]) + 1, now_ms()
redis.call('XADD', KEYS[2], last .. '-0', 'e', ARGV[5])
for i = 9, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], 'state', 'failed', 'seq', ARGV[4], 'end_seq', last, 'result', ARGV[6], 'finished_ms', now,
  'owner', '', 'claim', '', 'lease_ms', 0)
redis.call('PUBLISH', KEYS[1], ARGV[5])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[4], now + ARGV[7], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[7])
redis.call('PEXPIRE', KEYS[2], ARGV[7])

-- The counts may be damaged as well, and are not worth a failure.
lane = lane and string.match(lane, '^%d$')
for state, by in pairs({ [old or ''] = -1, failed = 1 }) do
  if ALLOWED[state] or state == 'failed' then
    redis.pcall('HINCRBY', KEYS[5], 'all:' .. state, by)
    if lane then redis.pcall('HINCRBY', KEYS[5], 'l' .. lane .. ':' .. state, by) end
  end
end
return 'ok'

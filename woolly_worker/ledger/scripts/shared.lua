-- Put in front of every script: the clock, the state table, and the steps that several transitions have in common.

local TERMINAL = { succeeded = true, failed = true, cancelled = true, expired = true }

-- The table of contract/states.py. A change that it does not allow is a bug of ours and stops the script.
local ALLOWED = {
  queued = { running = true, failed = true, cancelled = true, expired = true },
  running = { queued = true, succeeded = true, failed = true, cancelled = true, expired = true },
}

-- The only clock there is.
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function count(lanes, lane, state, by)
  redis.call('HINCRBY', lanes, 'l' .. lane .. ':' .. state, by)
  redis.call('HINCRBY', lanes, 'all:' .. state, by)
end

-- The backlog in detail: a job has joined (1) or left (-1) those that wait in its lane.
local function count_waiting(job, lanes, lane, by)
  local s = redis.call('HMGET', job, 'priority', 'cost')
  if not s[2] then return end -- recorded by a version that did not count
  local tokens = by * tonumber(s[2])
  redis.call('HINCRBY', lanes, 'l' .. lane .. ':p' .. s[1] .. ':queued', by)
  redis.call('HINCRBY', lanes, 'l' .. lane .. ':p' .. s[1] .. ':tokens', tokens)
  redis.call('HINCRBY', lanes, 'all:queued_tokens', tokens)
end

-- How fast the queue drains: tokens of the jobs that end, over the time between their ends, but only of stretches in
-- which others waited all the time, because without them demand is measured and not speed. Of the last 64 or so.
local function measure_drain(lanes, cost, now)
  local s = redis.call('HMGET', lanes, 'drain:since_ms', 'drain:tokens', 'drain:ms')
  if s[1] and cost then
    local keep = 63 / 64
    redis.call('HSET', lanes, 'drain:tokens', string.format('%.3f', keep * tonumber(s[2] or '0') + cost),
      'drain:ms', string.format('%.3f', keep * tonumber(s[3] or '0') + now - s[1]))
  end
  redis.call('HSET', lanes, 'drain:since_ms', now)
end

local function move(job, lanes, lane, old, new)
  if not (ALLOWED[old] and ALLOWED[old][new]) then
    error('a job cannot go from ' .. old .. ' to ' .. new)
  end
  redis.call('HSET', job, 'state', new)
  count(lanes, lane, old, -1)
  count(lanes, lane, new, 1)
  if old == 'queued' then count_waiting(job, lanes, lane, -1) end
  if new == 'queued' then count_waiting(job, lanes, lane, 1) end
  local waiting = tonumber(redis.call('HGET', lanes, 'all:queued')) > 0
  if not waiting or new == 'queued' then
    redis.call('HDEL', lanes, 'drain:since_ms') -- nobody waits, or a worker stopped: what follows is another stretch
  elseif old == 'running' then
    measure_drain(lanes, tonumber(redis.call('HGET', job, 'cost') or ''), now_ms())
  end
end

-- The channel of a job has the name of its record.
local function publish_state(job, state, attempt)
  redis.call('PUBLISH', job, '{"type":"state","state":"' .. state .. '","attempt":' .. attempt .. '}')
end

-- running -> queued after a lease that was not renewed: the worker is believed dead. Returns the crashes so far.
local function lose_lease(job, lanes, lane, now)
  local s = redis.call('HMGET', job, 'owner', 'seq', 'attempts', 'history', 'lease_ms')
  local history = cjson.decode(s[4] or '[]')
  history[#history + 1] = {
    owner = s[1], seq = tonumber(s[2]), attempt = tonumber(s[3]), lease_ended_ms = tonumber(s[5]), noticed_ms = now,
  }
  local crashes = redis.call('HINCRBY', job, 'crashes', 1)
  redis.call('HSET', job, 'history', cjson.encode(history), 'owner', '', 'claim', '', 'lease_ms', 0, 'queued_ms', now)
  move(job, lanes, lane, 'running', 'queued')
  publish_state(job, 'queued', s[3])
  return crashes
end

-- Takes the next place at the end of a lane: its bell is about to be rung (again).
local function enqueue(job, lanes, lane, priority)
  local enq = redis.call('HINCRBY', lanes, 'l' .. lane .. ':p' .. priority .. ':enq', 1)
  redis.call('HSET', job, 'enq', enq)
  return redis.call('HINCRBY', job, 'bells', 1)
end

-- The one way into a terminal state: record, stream, channel, indexes, lifetime.
local function write_terminal(id, job, events, open, finished, lanes, lane, old, new, seq, event, result, keep_ms, now)
  move(job, lanes, lane, old, new)
  redis.call('XADD', events, seq .. '-0', 'e', event)
  redis.call('HSET', job, 'end_seq', seq, 'result', result, 'finished_ms', now, 'owner', '', 'lease_ms', 0)
  redis.call('PUBLISH', job, event)
  redis.call('ZREM', open, id)
  redis.call('ZADD', finished, now + keep_ms, id)
  redis.call('ZREMRANGEBYSCORE', finished, '-inf', now)
  redis.call('PEXPIRE', job, keep_ms)
  redis.call('PEXPIRE', events, keep_ms)
  -- Last, so that it is there as long as the record. An abandoned job may have lost its key to another.
  local once = redis.call('HGET', job, 'once')
  if once and redis.call('HGET', once, 'job') == id then redis.call('PEXPIRE', once, keep_ms) end
end

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

local function move(job, lanes, lane, old, new)
  if not (ALLOWED[old] and ALLOWED[old][new]) then
    error('a job cannot go from ' .. old .. ' to ' .. new)
  end
  redis.call('HSET', job, 'state', new)
  count(lanes, lane, old, -1)
  count(lanes, lane, new, 1)
end

-- The channel of a job has the name of its record.
local function publish_state(job, state, attempt)
  redis.call('PUBLISH', job, '{"type":"state","state":"' .. state .. '","attempt":' .. attempt .. '}')
end

-- A line about an attempt that ends now, for the job's timeline: what is known here, and what its worker measured (JSON,
-- or ''). A job that is given back again and again keeps the short half of its lines only.
local function note_attempt(job, ending, now, measured)
  local s = redis.call('HMGET', job, 'timeline', 'attempts', 'owner', 'claimed_ms', 'lease_ms', 'lease_for_ms', 'seq')
  local lines = s[1] or ''
  if #lines > 65536 then measured = '' end
  local attempt = cjson.encode({
    attempt = tonumber(s[2]), owner = s[3], claimed_ms = tonumber(s[4] or now), ended_ms = now, seq = tonumber(s[7]),
    alive_ms = tonumber(s[5]) - tonumber(s[6] or 0), ['end'] = ending,
  })
  redis.call('HSET', job, 'timeline', lines .. attempt .. '\t' .. measured .. '\n')
end

-- running -> queued after a lease that was not renewed: the worker is believed dead. Returns the crashes so far.
local function lose_lease(job, lanes, lane, now)
  local s = redis.call('HMGET', job, 'owner', 'seq', 'attempts', 'history', 'lease_ms')
  local history = cjson.decode(s[4] or '[]')
  history[#history + 1] = {
    owner = s[1], seq = tonumber(s[2]), attempt = tonumber(s[3]), lease_ended_ms = tonumber(s[5]), noticed_ms = now,
  }
  note_attempt(job, 'lost', now, '')
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
end

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

-- A whole number as we write them, or nil: whoever else can write to this server may have left anything.
local function number(text)
  return type(text) == 'string' and #text < 16 and text:match('^%d+$') and tonumber(text) or nil
end

-- Whether no reaper has been heard for a while. They come every second, so Redis has been away: stopped, restarted, or
-- cut off from everybody. Leases that ran out since then could not be renewed (absence.lua).
local AWAY_MS = 3000
local function away_since(seen, now)
  local last = number(redis.pcall('GET', seen)) or now
  if now - last > AWAY_MS then return last end
end

-- For what serves jobs that are accepted already: goes on although the server is at its maxmemory. It refuses what needs
-- memory, but not in the middle of a script, and a write that needs none is a beginning. (Redis 7 has the flag allow-oom
-- for it, in a first line that 6.2 takes for a syntax error.)
local function whatever_the_memory(job)
  redis.call('DEL', job .. ':') -- no key has such a name, so it has no wrong type either
end

-- A number of the lanes. What is none any more begins anew: it counts jobs, and none of them may stop for it.
local function add(lanes, field, by)
  local sum = redis.pcall('HINCRBY', lanes, field, by)
  if type(sum) == 'table' then
    sum = math.max(0, by)
    redis.call('HSET', lanes, field, sum)
  end
  return sum
end

local function count(lanes, state, by)
  add(lanes, 'all:' .. state, by)
end

-- Who is next: the first job of the first lane of the round. A lane that was served goes behind the others of its
-- priority; so does one that had been empty. Ten priorities of so many turns are exact in a double.
local TURNS = 2 ^ 44

-- Where jobs of this lane wait that have been running before: the lane of nobody.
local function front_of(lane)
  return lane:match('^%d+#')
end

local function give_turn(lanes, lane)
  local turn = 0 -- the lane of nobody is always first
  if lane ~= front_of(lane) then turn = add(lanes, 'turns', 1) end
  redis.call('ZADD', lanes .. '#round', lane:match('^%d+') * TURNS + turn, lane)
end

local function join(lanes, lane, id)
  redis.call('ZADD', lanes .. '#' .. lane, add(lanes, 'places', 1), id)
  if not redis.call('ZSCORE', lanes .. '#round', lane) then give_turn(lanes, lane) end
end

-- `served`: the lane has used its turn. A job that is cancelled while it waits uses none.
local function leave(lanes, lane, id, served)
  for _, name in ipairs({ lane, front_of(lane) }) do
    if redis.call('ZREM', lanes .. '#' .. name, id) == 1 then
      if redis.call('EXISTS', lanes .. '#' .. name) == 0 then
        redis.call('ZREM', lanes .. '#round', name)
      elseif served then
        give_turn(lanes, name)
      end
    end
  end
end

-- The backlog in tokens: a job has joined (1) or left (-1) those that wait.
local function count_tokens(job, lanes, by)
  local cost = redis.call('HGET', job, 'cost')
  if cost then add(lanes, 'all:queued_tokens', by * tonumber(cost)) end
end

-- A job that waited has gone without a record that says what it cost: as much as the others, on average.
local function count_gone(lanes)
  local s = redis.call('HMGET', lanes, 'all:queued', 'all:queued_tokens')
  local queued, tokens = number(s[1]) or 0, number(s[2]) or 0
  if queued > 0 then add(lanes, 'all:queued_tokens', -math.floor(tokens / queued)) end
  count(lanes, 'queued', -1)
end

-- How many jobs wait in the lanes, whatever the gauge says. Those that are put aside (next.lua) are not among them.
local function in_lanes(lanes)
  local n = 0
  for _, lane in ipairs(redis.call('ZRANGE', lanes .. '#round', 0, -1)) do
    local waiting = redis.pcall('ZCARD', lanes .. '#' .. lane)
    if type(waiting) == 'number' then n = n + waiting end
  end
  return n
end

-- How fast the queue drains: tokens of the jobs that end, over the time between their ends, but only of stretches in
-- which others waited all the time, because without them demand is measured and not speed. Of the last 64 or so.
local function measure_drain(lanes, cost, now)
  local s = redis.call('HMGET', lanes, 'drain:since_ms', 'drain:tokens', 'drain:ms')
  local since = number(s[1])
  if since and cost then
    local function kept(text)
      return 63 / 64 * (tonumber((text or ''):match('^%d+%.%d+$')) or 0)
    end
    redis.call('HSET', lanes, 'drain:tokens', string.format('%.3f', kept(s[2]) + cost),
      'drain:ms', string.format('%.3f', kept(s[3]) + now - since))
  end
  redis.call('HSET', lanes, 'drain:since_ms', now)
end

local function move(job, lanes, lane, old, new)
  if not (ALLOWED[old] and ALLOWED[old][new]) then
    error('a job cannot go from ' .. old .. ' to ' .. new)
  end
  redis.call('HSET', job, 'state', new)
  count(lanes, old, -1)
  count(lanes, new, 1)
  local id = redis.call('HGET', job, 'id')
  if old == 'queued' then
    leave(lanes, lane, id, new == 'running')
    count_tokens(job, lanes, -1)
  end
  if new == 'queued' then
    join(lanes, front_of(lane), id)
    count_tokens(job, lanes, 1)
  end
  local waiting = (number(redis.call('HGET', lanes, 'all:queued')) or 0) > 0
  if not waiting or new == 'queued' then
    redis.call('HDEL', lanes, 'drain:since_ms') -- nobody waits, or a worker stopped: what follows is another stretch
  elseif old == 'running' then
    measure_drain(lanes, number(redis.call('HGET', job, 'cost')), now_ms())
  end
end

-- When the reaper should look at a job that waits: at once if it is to end, at its deadline, or much later.
local function next_look(now, later, cancel, deadline)
  if cancel == '1' then return now end
  deadline = tonumber(deadline or '0')
  return deadline > 0 and math.min(deadline, now + later) or now + later
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

-- running -> queued after a lease that was not renewed: the worker is believed dead. Returns the crashes so far, and of
-- what was lost the owner and the attempt.
local function lose_lease(job, lanes, lane, now)
  local s = redis.call('HMGET', job, 'owner', 'seq', 'attempts', 'history', 'lease_ms', 'alone')
  local history = cjson.decode(s[4] or '[]')
  history[#history + 1] = {
    owner = s[1], seq = tonumber(s[2]), attempt = tonumber(s[3]), lease_ended_ms = tonumber(s[5]), noticed_ms = now,
    alone = s[6] == '1',
  }
  note_attempt(job, 'lost', now, '')
  local crashes = redis.call('HINCRBY', job, 'crashes', 1)
  redis.call('HSET', job, 'history', cjson.encode(history), 'owner', '', 'claim', '', 'lease_ms', 0, 'queued_ms', now)
  move(job, lanes, lane, 'running', 'queued')
  publish_state(job, 'queued', s[3])
  return crashes, s[1], tonumber(s[3])
end

-- Whether a job may not run again: it was lost often enough, and the last time nothing else was being computed. Lost
-- in company it may be a victim, however often that happens.
local function is_poison(crashes, most, alone)
  return crashes >= tonumber(most) and alone == '1'
end

-- Suspicion begins one loss before the one that convicts, at the first at least, and lasts until so many tokens past the
-- place of the last loss; twice as many with each further one, so that what kills a little later every time is convicted
-- in the end, too. Returns the number of tokens until which the job must be computed alone; nil if it need not be.
local PROBATION_TOKENS = 32
local MOST_DOUBLINGS = 20 -- more tokens than any context holds
local function alone_until(job, seq, most)
  local losses = cjson.decode(redis.call('HGET', job, 'history') or '[]')
  local further = #losses - math.max(1, most - 1)
  if further < 0 then return nil end
  local last = losses[#losses].seq + PROBATION_TOKENS * 2 ^ math.min(further, MOST_DOUBLINGS)
  return seq < last and last or nil
end

-- The number of the bell that the caller is about to ring.
local function next_bell(job)
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
  redis.call('PEXPIRE', job, keep_ms)
  redis.call('PEXPIRE', events, keep_ms)
  -- Last, so that it is there as long as the record. An abandoned job may have lost its key to another.
  local once = redis.call('HGET', job, 'once')
  if once and redis.pcall('HGET', once, 'job') == id then redis.call('PEXPIRE', once, keep_ms) end
end

-- How many queued jobs are to be claimed before one, as things stand. It costs a look at every lane of its priority and
-- the better ones, not at every job.
--
-- KEYS  1 job  2 lanes of its model
-- ARGV  1 id
-- Returns the number, or nil unless the job is queued and nobody else has changed that

local s = redis.pcall('HMGET', KEYS[1], 'state', 'lane')
if s[1] ~= 'queued' or not (s[2] and front_of(s[2])) then return nil end
local round, lane = KEYS[2] .. '#round', s[2]
local rank = redis.call('ZRANK', KEYS[2] .. '#' .. lane, ARGV[1])
if not rank then
  lane = front_of(lane)
  rank = redis.call('ZRANK', KEYS[2] .. '#' .. lane, ARGV[1])
  if not rank then return nil end
end

-- A lane that is before ours in the round is served once more than ours until this job's turn; others of our priority
-- are served as often as ours. Those of better priorities, and those who have been running before, come first anyway.
local own = tonumber(redis.call('ZSCORE', round, lane))
if not own then return nil end
local before, priority = rank, math.floor(own / TURNS)
local others = redis.call('ZRANGE', round, 0, -1, 'WITHSCORES')
for i = 1, #others, 2 do
  local name, turn = others[i], tonumber(others[i + 1])
  if math.floor(turn / TURNS) > priority then break end
  if name ~= lane then
    local n = redis.call('ZCARD', KEYS[2] .. '#' .. name)
    if turn % TURNS ~= 0 and math.floor(turn / TURNS) == priority then
      n = lane == front_of(lane) and 0 or math.min(n, rank + (turn < own and 1 or 0))
    end
    before = before + n
  end
end
return before

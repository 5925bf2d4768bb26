-- running -> running: one engine step of a whole batch. Appends tokens, publishes, renews leases, reads cancel flags.
--
-- KEYS  1 open index, then two per emission: job, events
-- ARGV  1 lease ms, then five per emission: id, fence, seq, event JSON, tokens of the prompt or ''
--       seq 0 only renews the lease; its event, if not '', is published and not stored
-- Returns one reply per emission:
--   ok         written, or (same fence) had been written before: a repeated call does no harm
--   cancelled  as ok, and somebody asked for the end of this job
--   fenced     not yours, or not running any more: nothing was written
--   damaged    record or stream are not as we left them: nothing was written, and the others of the batch were
--   gap        seq is not the next one (the server forgot what it had acknowledged): nothing was written

whatever_the_memory(KEYS[2])
local now = now_ms()
local lease = now + ARGV[1]
local replies = {}
for i = 1, (#KEYS - 1) / 2 do
  local job, events = KEYS[2 * i], KEYS[2 * i + 1]
  local id, fence, seq, event, n_prompt = ARGV[5 * i - 3], ARGV[5 * i - 2], tonumber(ARGV[5 * i - 1]), ARGV[5 * i],
    ARGV[5 * i + 1]
  local s = redis.pcall('HMGET', job, 'fence', 'state', 'seq', 'cancel')
  local written = number(s[3])
  if s.err or (s[1] == fence and not written) then
    replies[i] = 'damaged'
  elseif s[1] ~= fence or s[2] ~= 'running' then
    replies[i] = 'fenced'
  elseif seq > written + 1 then
    replies[i] = 'gap'
  elseif seq == written + 1 and redis.pcall('XADD', events, seq .. '-0', 'e', event).err then
    replies[i] = 'damaged'
  else
    if seq == 0 then
      if event ~= '' then redis.call('PUBLISH', job, event) end
      redis.call('HSET', job, 'lease_ms', lease)
    elseif seq == written + 1 then
      redis.call('PUBLISH', job, event)
      redis.call('HSET', job, 'seq', seq, 'lease_ms', lease)
      if seq == 1 then redis.call('HSET', job, 'first_token_ms', now) end
    else
      redis.call('HSET', job, 'lease_ms', lease)
    end
    if n_prompt ~= '' then redis.call('HSET', job, 'prompt_tokens', n_prompt) end
    redis.call('ZADD', KEYS[1], lease, id)
    replies[i] = s[4] == '1' and 'cancelled' or 'ok'
  end
end
return replies

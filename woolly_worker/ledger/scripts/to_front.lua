-- Moves a bell that was just rung from the end of its lane to the front. Celery can only put messages at the end: even
-- what it calls requeueing does.
--
-- KEYS  1 the list of bells: new ones come in on the left, workers take from the right  2 job  3 lanes of the model
-- ARGV  1 Celery's task id of the bell  2 how many of the newest to look through  3 lane  4 priority
-- Returns 1, or 0 if it is not there (taken already)

for _, message in ipairs(redis.call('LRANGE', KEYS[1], 0, ARGV[2] - 1)) do
  if string.find(message, '"' .. ARGV[1] .. '"', 1, true) then
    redis.call('LREM', KEYS[1], 1, message)
    redis.call('RPUSH', KEYS[1], message)
    -- Its place is now before every bell that has not been answered. Without this, its answer would make all of them
    -- look lost.
    local high = redis.call('HGET', KEYS[3], 'l' .. ARGV[3] .. ':p' .. ARGV[4] .. ':claimed') or '0'
    if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('HSET', KEYS[2], 'enq', high) end
    return 1
  end
end
return 0

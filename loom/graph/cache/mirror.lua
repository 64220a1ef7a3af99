-- Writes tasks, stream entries and notices to the mirror in one step. KEYS: the mirror hash, the stream, the ready
-- queue, the dead letters, the versions of what is finished, then the seven status sets. ARGV[1]: the job as JSON:
--   history, layout   whose mirror the caller writes; another one is left alone
--   expect, position  (relay) the position this continues from, and the one it reaches
--   generation        (rebuild) the rebuild that this belongs to, and for how many seconds more it is left alone
--   patience
--   maxlen            how many entries the stream keeps
--   tasks             {key, id, version, status, set, score, dead, ttl, fields}; no fields: only its id is kept
--   entries           {stream id, fields}
--   notices           {channel, text, enqueue, dequeue}
local mirror, stream, ready, dead, finished = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local job = cjson.decode(ARGV[1])
local held = redis.call('HMGET', mirror, 'layout', 'history', 'position', 'generation')
if held[1] ~= job.layout or held[2] ~= job.history then return 'missing' end
if job.expect and held[3] ~= job.expect then return 'moved' end
if job.generation then
  if held[4] ~= job.generation then return 'moved' end
  redis.call('HSET', mirror, 'building', tostring(tonumber(redis.call('TIME')[1]) + job.patience))
end

local function add_to_ready_queue(task) redis.call('ZADD', ready, task.score, task.id) end
local function remove_from_ready_queue(task) redis.call('ZREM', ready, task.id) end

local function sync_task(task)
  local known = redis.call('HGET', task.key, 'version')
  -- A rebuild writes the same version again: the emptying before it may have taken an id out of a set while it was written.
  local newest = tonumber(task.version) - (job.generation and 0 or 1)
  local stale = known and tonumber(known) > newest
  if not known then
    -- The hash of a finished task expires; a later version may lead out of being finished, no earlier one does.
    local last = redis.call('HGET', finished, task.id)
    stale = last and tonumber(last) > tonumber(task.version)
  end
  if not stale then
    for i = 6, #KEYS do
      if KEYS[i] == task.set then redis.call('SADD', KEYS[i], task.id) else redis.call('SREM', KEYS[i], task.id) end
    end
    if task.score then add_to_ready_queue(task) else remove_from_ready_queue(task) end
    if task.dead then redis.call('SADD', dead, task.id) else redis.call('SREM', dead, task.id) end
    if task.ttl then redis.call('HSET', finished, task.id, task.version) else redis.call('HDEL', finished, task.id) end
    redis.call('DEL', task.key)
    if task.fields then
      redis.call('HSET', task.key, unpack(task.fields))
      if task.ttl then redis.call('EXPIRE', task.key, task.ttl) end
    end
    if job.updates then redis.call('PUBLISH', job.updates, cjson.encode({id = task.id, status = task.status, version = task.version})) end
  end
end

for _, task in ipairs(job.tasks) do sync_task(task) end

for _, entry in ipairs(job.entries) do
  redis.call('XADD', stream, 'MAXLEN', '~', job.maxlen, entry.id, unpack(entry.fields))
end
for _, notice in ipairs(job.notices) do
  redis.call('PUBLISH', notice.channel, notice.text)
  local id = notice.enqueue or notice.dequeue
  if id then redis.call('LREM', notice.channel, 0, id) end
  if notice.enqueue then redis.call('RPUSH', notice.channel, id) end
end
if job.position then redis.call('HSET', mirror, 'position', job.position) end
return 'written'

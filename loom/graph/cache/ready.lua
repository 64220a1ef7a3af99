-- The best ready tasks. KEYS: the ready queue. ARGV: the lowest and the highest score, how many, what a task's key
-- begins with, and the fields wanted.
local rows = {}
for _, id in ipairs(redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[2], ARGV[1], 'LIMIT', 0, ARGV[3])) do
  rows[#rows + 1] = redis.call('HMGET', ARGV[4] .. id, unpack(ARGV, 5))
end
return rows

-- Ends a rebuild. KEYS: the mirror hash, the queue of escalations. ARGV: generation, position, the open escalations.
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return false end
redis.call('HSET', KEYS[1], 'position', ARGV[2])
redis.call('HDEL', KEYS[1], 'building')
redis.call('DEL', KEYS[2])
for i = 3, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[i]) end
return 1

-- Gives a rebuild back that did not come to its end. KEYS: the mirror hash. ARGV: generation.
if redis.call('HGET', KEYS[1], 'generation') == ARGV[1] then redis.call('HDEL', KEYS[1], 'building') end

-- Begins a rebuild, unless one is under way whose time is not over; each draws the next generation. KEYS: the mirror
-- hash. ARGV: layout, history, seconds of patience, both of the first as one word, which tells whose rebuild it is, and
-- the generation that was found wanting, '*' for any: another one was built since.
local now = tonumber(redis.call('TIME')[1])
local held = redis.call('HMGET', KEYS[1], 'building', 'identity', 'generation', 'history', 'layout')
if (tonumber(held[5]) or 0) > tonumber(ARGV[1]) then return false end  -- a newer Loom has it
local function parts(history) return string.match(history or '', '^(.-)/(%x+)/(.*)$') end
local system, timeline, database = parts(held[4])
local own_system, own_timeline, own_database = parts(ARGV[2])
if system and system == own_system and database == own_database and tonumber(timeline, 16) > tonumber(own_timeline, 16) then
  return false  -- a server that was promoted since has it
end
if ARGV[5] ~= '*' and ARGV[5] ~= (held[3] or '') then return false end
if held[1] and tonumber(held[1]) > now and held[2] == ARGV[4] then return false end
local generation = tostring((tonumber(held[3]) or 0) + 1)
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'generation', generation, 'layout', ARGV[1], 'history', ARGV[2], 'identity', ARGV[4],
           'building', tostring(now + tonumber(ARGV[3])))
return generation

-- Names the user of each request in the access log, and gives the split what it hashes.
-- Both are SipHash-2-4 of the user's id: the name with the key of this home, the split's with the salt of the release.

local bit, ffi = require("bit"), require("ffi")
local band, bor, bxor, lshift, rol = bit.band, bit.bor, bit.bxor, bit.lshift, bit.rol
local bytes, words = ffi.typeof("const uint8_t *"), ffi.typeof("const uint64_t *")

local function number(hex)
  return lshift(0ULL + tonumber(hex:sub(1, 8), 16), 32) + tonumber(hex:sub(9, 16), 16)
end

local function key(hex)
  return number(hex:sub(1, 16)), number(hex:sub(17, 32))
end

local function round(a, b, c, d)
  a = a + b; b = bxor(rol(b, 13), a); a = rol(a, 32)
  c = c + d; d = bxor(rol(d, 16), c)
  a = a + d; d = bxor(rol(d, 21), a)
  c = c + b; b = bxor(rol(b, 17), c); c = rol(c, 32)
  return a, b, c, d
end

local function siphash(text, k0, k1)
  local a, b = bxor(k0, 0x736f6d6570736575ULL), bxor(k1, 0x646f72616e646f6dULL)
  local c, d = bxor(k0, 0x6c7967656e657261ULL), bxor(k1, 0x7465646279746573ULL)
  local data, whole = ffi.cast(bytes, text), #text - #text % 8
  for at = 0, whole - 8, 8 do
    local word = ffi.cast(words, data + at)[0]
    d = bxor(d, word)
    a, b, c, d = round(a, b, c, d)
    a, b, c, d = round(a, b, c, d)
    a = bxor(a, word)
  end
  local last = lshift(0ULL + band(#text, 255), 56)
  for at = whole, #text - 1 do
    last = bor(last, lshift(0ULL + data[at], 8 * (at - whole)))
  end
  d = bxor(d, last)
  a, b, c, d = round(a, b, c, d)
  a, b, c, d = round(a, b, c, d)
  a, c = bxor(a, last), bxor(c, 255)
  for _ = 1, 4 do
    a, b, c, d = round(a, b, c, d)
  end
  return bit.tohex(bxor(a, b, c, d))
end

-- The value of the first cookie whose name has this pattern; nil without one.
local function cookie(headers, pattern)
  for at = 0, headers:getNumValues("cookie") - 1 do
    local value = (";" .. headers:getAtIndex("cookie", at)):match(pattern)
    if value then
      return value
    end
  end
end

local name0, name1 = key("@KEY@")
local salt, salt0, salt1

function envoy_on_request(handle)
  local route = handle:metadata()
  local header = route:get("header")
  if not header then
    return -- a table of routes by an older release, or one by which nothing serves
  end
  local headers = handle:headers()
  local user = headers:get(header)
  if not user or user == "" then
    user = cookie(headers, route:get("cookie"))
  end
  if not user or user == "" then
    return
  end
  local info = handle:streamInfo()
  info:dynamicMetadata():set("@FILTER@", "user", siphash(user, name0, name1))
  local drawn = route:get("salt")
  if drawn then
    if drawn ~= salt then
      salt, salt0, salt1 = drawn, key(drawn)
    end
    info:filterState():set("@STATE@", "envoy.hashable_string", siphash(user, salt0, salt1))
    handle:clearRouteCache() -- it was chosen before this state was there
  end
end

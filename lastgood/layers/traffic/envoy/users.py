"""Users as the proxy knows them: the filter that names them in the access log, and what the split hashes of them. Pure.

A user is the value of the header `traffic.user_header`, else of the cookie `traffic.user_cookie`; an empty one is none. The proxy never writes it down:

    in the access log   SipHash-2-4 with the key of this home, the same in every release: `user`, 16 hex digits
    in the split        SipHash-2-4 with the salt of the release, whose xxHash64 modulo 10,000 is the user's bucket

The header, the cookie and the salt come with the routes, so that they change together in one step; the filter itself is fixed while
Envoy runs.

What does not belong here: where the key is kept (`files`), where the salt comes from (`layers.desired`), the rest of the routes (`config`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lastgood.layers.traffic.envoy.documents import Json
from lastgood.service.schema import Traffic

FILTER = "lastgood.users"
"""Name of the filter, and of its metadata in routes and requests."""

STATE = "lastgood.users.bucket"
"""Where the filter stores what the split hashes."""

USER_IN_LOG = f"%DYNAMIC_METADATA({FILTER}:user)%"

_SCRIPT = Path(__file__).with_suffix(".lua")
_LUA = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"


def http_filter(key: str) -> Json:
    """The HTTP filter that names users by *key*, 32 hex digits; it must come first, while a request is still as it arrived."""
    source = _SCRIPT.read_text("utf-8")
    for name, value in {"@KEY@": key, "@FILTER@": FILTER, "@STATE@": STATE}.items():
        source = source.replace(name, value)
    return {"name": FILTER, "typed_config": {"@type": _LUA, "default_source_code": {"inline_string": source}}}


def is_in(bootstrap: Any) -> bool:
    """Whether an Envoy with this *bootstrap* has the filter: one started by an older release has not."""
    try:
        chains = bootstrap["static_resources"]["listeners"][0]["filter_chains"]
        return any(found["name"] == FILTER for found in chains[0]["filters"][0]["typed_config"]["http_filters"])
    except (KeyError, IndexError, TypeError):
        return False


def metadata(traffic: Traffic, *, salt: str) -> dict[str, str]:
    """A route's parameters for the filter: the header, the pattern of the cookie, and the salt if there is one."""
    name = re.sub(r"[^A-Za-z0-9]", r"%\g<0>", traffic.user_cookie)
    return {"header": traffic.user_header, "cookie": f';%s*{name}="?([^;"]*)', **({"salt": salt} if salt else {})}


def hash_policy(traffic: Traffic, *, salt: str) -> list[Json]:
    """What Envoy hashes into a bucket: with a *salt* the filter's result, else the bare header or cookie, as in older releases."""
    if salt:
        return [{"filter_state": {"key": STATE}}]
    return [{"header": {"header_name": traffic.user_header}, "terminal": True}, {"cookie": {"name": traffic.user_cookie}}]

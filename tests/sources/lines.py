"""Lines of the proxy's access log, as the real Envoy writes them (`tests.sources.test_envoy` compares)."""

from __future__ import annotations

import itertools
import json
from typing import Any

from tests.layers.traffic.world import A, B

_NUMBERS = itertools.count()


def route(bundle_id: str) -> str:
    """The cluster that requests for a bundle are routed to."""
    return f"b-{bundle_id.removeprefix('sha256:')[:12]}.safe"


def line(bundle_id: str, *, at: float = 1.5, by: str | None = "", **more: Any) -> bytes:
    """A request that was routed to a bundle and answered by it, or *by* another one, or nobody (None)."""
    value: dict[str, Any] = {
        "t": f"{at:.6f}",
        "id": f"id-{next(_NUMBERS)}",
        "cluster": route(bundle_id),
        "arm": "candidate",
        "path": "/predict",
        "bundle": bundle_id if by == "" else by,
        "host": "127.0.0.1:9",
        "code": 200,
        "flags": "-",
        "attempts": 1,
        "upstream_us": 1897,
        "total_us": 2330,
        "received_us": 26,
        "waited_us": 2268,
        "all_ms": 2,
        "problem": None,
        "peer": "192.0.2.0/24",
        "user": "0123456789abcdef",
    }
    return json.dumps({**value, **more}).encode() + b"\n"


LEFT: dict[str, Any] = {"code": 0, "flags": "DC", "waited_us": None, "total_us": None, "upstream_us": None, "by": None}
"""What differs for a caller that hung up."""

__all__ = ["LEFT", "A", "B", "line", "route"]

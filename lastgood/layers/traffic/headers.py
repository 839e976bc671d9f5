"""Headers by which the proxy tells a worker what it knows of a request. Nobody else can set them: it strips them on entry.

A worker listens where only its owner's processes reach it, so what carries these came through the proxy, or from its owner.
"""

from __future__ import annotations

PREFIX = "x-lastgood-"

BUNDLE = PREFIX + "bundle"
"""In an answer: which bundle gave it. In a request with the token: which one is wanted."""
ARM = PREFIX + "arm"
"""stable, candidate, control, or debug for a bundle that was chosen by token."""
REVISION = PREFIX + "revision"
"""The revision by which the request was routed. Every request that came through the proxy has it."""
REQUEST_ID = PREFIX + "request-id"
"""Names the request: made before it is copied or tried again. `x-request-id` is the caller's own and may come twice."""
PEER = PREFIX + "peer"
"""The address that the connection came from, without its port."""
SHADOW = PREFIX + "shadow"
"""The request is a mirrored copy; nobody gets the answer."""
DISCLOSE = PREFIX + "disclose"
"""The caller holds the debug token and may know arm and parts."""
TOKEN = PREFIX + "debug-token"
"""What a caller shows to choose a bundle, or to be told arm and parts."""
PROBLEM = PREFIX + "problem"
"""In an answer of a worker: what kept it from being a prediction. `uncomputable`: the service's code cannot compute a row of it."""

UNREADY = PREFIX + "unready"
"""In the answer of a worker that is not ready: nothing was done with the request, so the proxy asks another bundle at once,
whatever may not be repeated."""
FAILED_CHECK = "x-envoy-immediate-health-check-fail"
"""Beside it: Envoy sends the worker nothing more until it passes its health check."""

CALLER_ID = "x-request-id"
"""The caller's own id of a request, or one that the proxy made where there was none."""

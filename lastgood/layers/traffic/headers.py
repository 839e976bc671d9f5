"""Headers by which the proxy passes a worker what it knows of a request. Nobody else can set them: the proxy strips them on entry.

A worker listens where only its owner's processes reach it, so a request with these came through the proxy, or from the owner.
"""

from __future__ import annotations

PREFIX = "x-lastgood-"

BUNDLE = PREFIX + "bundle"
"""In an answer: which bundle gave it. In a request with the token: which one is wanted."""
ARM = PREFIX + "arm"
"""stable, candidate, control, or debug for a bundle chosen by token."""
REVISION = PREFIX + "revision"
"""The revision by which the request was routed. Every request that came through the proxy has it."""
REQUEST_ID = PREFIX + "request-id"
"""Identifies the request: created before it is copied or retried. `x-request-id` is the caller's own and may occur twice."""
PEER = PREFIX + "peer"
"""The address that the connection came from, without its port."""
SHADOW = PREFIX + "shadow"
"""The request is a mirrored copy; its answer is discarded."""
DISCLOSE = PREFIX + "disclose"
"""The caller holds the debug token and may know arm and parts."""
TOKEN = PREFIX + "debug-token"
"""The token that lets a caller choose a bundle, or see arm and parts."""
PROBLEM = PREFIX + "problem"
"""In a worker's answer: why it is not a prediction. `uncomputable`: the service's code cannot compute a row of it."""

UNREADY = PREFIX + "unready"
"""In the answer of a worker that is not ready: nothing was done with the request, so the proxy asks another bundle at once,
even if the request must not be repeated."""
FAILED_CHECK = "x-envoy-immediate-health-check-fail"
"""Sent with it: Envoy sends the worker nothing more until it passes its health check."""

CALLER_ID = "x-request-id"
"""The caller's own request id, or one that the proxy created where there was none."""

"""Around every request, even a failed one: the proxy's headers, the request's owner, and the names in its answer.

What does not belong here: what is answered (`app`).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import time
import uuid
from collections.abc import Callable

from starlette import responses
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lastgood.layers.infrastructure.local import in_flight
from lastgood.layers.traffic import headers as traffic_headers
from lastgood.serving import feedback, metrics

_logger = logging.getLogger(__name__)
_REQUEST_ID = re.compile(feedback.REQUEST_ID)
_INSIDE = ("/metrics", "/readyz")
"""Paths for operators: through the proxy, only holders of the debug token get an answer."""
_COUNTED = ("/predict", "/feedback")
"""Paths whose requests a worker that is being stopped still answers."""


class Envelope:
    """Wraps everything, including failures: names the bundle and the request in each answer, and counts it."""

    def __init__(
        self, app: ASGIApp, *, bundle: str, counted: in_flight.InFlight, metrics: metrics.Metrics, out_of_memory: Callable[[], None]
    ) -> None:
        self._app = app
        self._name = bundle
        self._bundle = (traffic_headers.BUNDLE.encode(), bundle.encode())
        self._counted = counted
        self._metrics = metrics
        self._out_of_memory = out_of_memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        ids = _ids(scope)
        scope.setdefault("state", {})["ids"] = ids
        headers = [
            self._bundle,
            (traffic_headers.REQUEST_ID.encode(), ids.own.encode()),
            (traffic_headers.CALLER_ID.encode(), (ids.callers or ids.own).encode()),
        ]
        app = self._app
        if is_copy(scope) and scope["path"] != "/predict":
            app = _refuse_copy
        elif scope["path"] in _INSIDE and through_proxy(scope) and not header(scope, traffic_headers.DISCLOSE):
            app = _refuse_stranger
        code = 500
        counted = scope["path"] in _COUNTED
        if counted:
            self._counted.begin(copy=is_copy(scope))

        async def enveloped(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        try:
            await app(scope, receive, enveloped)
        except MemoryError:
            self._out_of_memory()
            _logger.exception("bundle %s ran out of memory; this worker ends", self._name)
            raise
        finally:
            if counted:
                self._counted.end(copy=is_copy(scope))
            self._metrics.request(path=scope["path"], code=code, seconds=time.perf_counter() - began)


async def _refuse_copy(scope: Scope, receive: Receive, send: Send) -> None:
    """A copy may only be predicted; any other path may write, and a proxy that copies it is misconfigured."""
    text = f"{scope['path'][:200]!r} must not be mirrored; only /predict may be mirrored, correct the proxy"
    await _refusal(403, text)(scope, receive, send)


async def _refuse_stranger(scope: Scope, receive: Receive, send: Send) -> None:
    text = f"{scope['path']!r} is not answered here; ask the worker itself, or send the debug token ({traffic_headers.TOKEN})"
    await _refusal(404, text)(scope, receive, send)


def is_copy(scope: Scope) -> bool:
    """Whether the proxy marked the request as a mirrored copy."""
    return bool(header(scope, traffic_headers.SHADOW))


def through_proxy(scope: Scope) -> bool:
    """Whether the request came through the proxy; otherwise it is the owner's, because nobody else can reach a worker."""
    return bool(header(scope, traffic_headers.REVISION))


@dataclasses.dataclass(frozen=True, slots=True)
class Ids:
    """The ids of a request: `own` from the proxy, or generated here; `callers` as given by the caller, or by the proxy for it."""

    own: str
    callers: str | None


def _ids(scope: Scope) -> Ids:
    own, callers = header(scope, traffic_headers.REQUEST_ID), header(scope, traffic_headers.CALLER_ID)
    return Ids(own=own if _REQUEST_ID.match(own) else str(uuid.uuid4()), callers=callers if _REQUEST_ID.match(callers) else None)


def header(scope: Scope, name: str) -> str:
    """The first value of the header *name*; "" if it is missing."""
    key = name.encode()
    return next((value.decode("latin-1") for known, value in scope["headers"] if known == key), "")


def _refusal(status: int, text: str) -> responses.Response:
    return responses.Response(json.dumps({"error": text}).encode(), status_code=status, media_type="application/json")

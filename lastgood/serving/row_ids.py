"""Which request a caller refers to: by the answer's id, which is ours and unique, or by the caller's own, which need not be.

A caller's id is `x-request-id`. A tracing system gives all requests of one page the same id, and a careless client gives every
request the same id; such an id identifies none of them.
"""

from __future__ import annotations

from collections.abc import Iterable

SHOWN = 20
"""How many requests under one caller's id are remembered; beyond that number it makes no difference."""


class CallerIds:
    """The requests under each caller's id. Beyond *capacity* requests, the oldest are forgotten. Not thread-safe."""

    def __init__(self, *, capacity: int | None = None) -> None:
        self._capacity = capacity
        self._requests: dict[str, dict[str, None]] = {}
        self._callers: dict[str, str] = {}

    def add(self, caller_id: str, request_id: str) -> bool:
        """Remember that *request_id* came under *caller_id*; True if it is the second one or a later one under it."""
        if request_id in self._callers:
            return False
        self._callers[request_id] = caller_id
        known = self._requests.setdefault(caller_id, {})
        known[request_id] = None
        if self._capacity is not None and len(self._callers) > self._capacity:
            self.forget(next(iter(self._callers)))
        return len(known) > 1

    def knows(self, request_id: str) -> bool:
        """Whether *request_id* is one of ours and remembered."""
        return request_id in self._callers

    def get(self, caller_id: str) -> tuple[str, ...]:
        """The ids of the requests that came under *caller_id*, oldest first, at most SHOWN."""
        known = self._requests.get(caller_id, {})
        return tuple(request_id for request_id, _ in zip(known, range(SHOWN), strict=False))

    def single(self) -> dict[str, str]:
        """Caller's id to request id, where there is only one."""
        return {caller_id: next(iter(known)) for caller_id, known in self._requests.items() if len(known) == 1}

    def forget(self, request_id: str) -> None:
        """Forget that request; does nothing if it is not remembered."""
        caller_id = self._callers.pop(request_id, None)
        if caller_id is not None:
            known = self._requests[caller_id]
            del known[request_id]
            if not known:
                del self._requests[caller_id]


def unambiguous(requests: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """Caller's id to request id, from pairs (request id, caller's id), for ids that match a single request."""
    ids = CallerIds()
    for request_id, caller_id in requests:
        if caller_id is not None:
            ids.add(caller_id, request_id)
    return ids.single()

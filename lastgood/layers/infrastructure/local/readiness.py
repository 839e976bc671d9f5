"""Asking workers whether they are ready, many at once, within a fixed time.

A plain socket with one deadline for the whole exchange: a worker that is stopped, or that answers one byte a second, costs the
same half second as one that does not answer. This is also on the path of a rollback, where importing an HTTP library would take
longer than using it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import threading
import time
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lastgood.layers import base
from lastgood.layers.infrastructure.local import worker_files
from lastgood.system import permissions, processes
from lastgood.system import ports as listening

TIMEOUT_S = 0.5
_MAX_ANSWER_BYTES = 65_536
_HEADER = b"x-lastgood-bundle:"

Key = TypeVar("Key", bound=Hashable)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReadyzAnswer:
    """The answer of `/readyz`: `status` is the HTTP status, None if there was no answer; `bundle` as the worker reports it.

    `in_flight` users' requests are unanswered; each was given `timeout_s` by the worker's own settings; its warm-up took `warm_up_s`.
    `repeated_ids` counts requests under a caller's id that an earlier one had, `unclear_labels` those refused because they named
    several. None: not reported.
    """

    status: int | None = None
    bundle: str | None = None
    in_flight: int | None = None
    timeout_s: float | None = None
    warm_up_s: float | None = None
    repeated_ids: int | None = None
    unclear_labels: int | None = None

    def ready(self, bundle: str) -> bool:
        """True if the worker reports that it is ready and serves exactly *bundle*."""
        return self.status == 200 and self.bundle == bundle

    def wrong(self, bundle: str) -> bool:
        """True if the worker reports another bundle, ready or not: it must not get requests meant for *bundle*."""
        return self.bundle is not None and self.bundle != bundle


def check_workers(live: Mapping[Key, processes.Record]) -> dict[Key, ReadyzAnswer]:
    """The answer of each recorded worker; one on a port is asked only while the port is its own (checked on Linux only)."""
    places = {key: worker_files.endpoint(record) for key, record in live.items()}
    taken = {key for key, place in places.items() if not place.path and _is_taken(live[key], place)}
    answers = check_all({key: place for key, place in places.items() if key not in taken})
    return answers | {key: ReadyzAnswer() for key in taken}


def _is_taken(record: processes.Record, place: base.Endpoint) -> bool:
    return listening.belongs(record.pid, host=place.host, port=place.port) is False


def check_all(endpoints: Mapping[Key, base.Endpoint], *, timeout_s: float = TIMEOUT_S) -> dict[Key, ReadyzAnswer]:
    """The answer of each endpoint; all are asked concurrently, so this takes *timeout_s* seconds at most."""
    answers: dict[Key, ReadyzAnswer] = {key: ReadyzAnswer() for key in endpoints}

    def ask(key: Key, endpoint: base.Endpoint) -> None:
        answers[key] = check(endpoint, timeout_s=timeout_s)

    threads = [threading.Thread(target=ask, args=item, daemon=True) for item in endpoints.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def check(endpoint: base.Endpoint, *, timeout_s: float = TIMEOUT_S) -> ReadyzAnswer:
    """Ask one worker; any failure is an answer without a status."""
    try:
        head, _, body = _exchange(endpoint, time.monotonic() + timeout_s).partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
    except (OSError, ValueError, IndexError):
        return ReadyzAnswer()
    told = _told(body)
    return ReadyzAnswer(
        status=status,
        bundle=_named_bundle(head, told),
        in_flight=_whole(told.get("in_flight")),
        timeout_s=_seconds(told.get("timeout_s")),
        warm_up_s=_seconds(told.get("warm_up_s")),
        repeated_ids=_whole(told.get("repeated_ids")),
        unclear_labels=_whole(told.get("unclear_labels")),
    )


def _exchange(endpoint: base.Endpoint, deadline: float) -> bytes:
    request = "GET /readyz HTTP/1.0\r\nHost: worker\r\nConnection: close\r\n\r\n"
    received = b""
    with _connect(endpoint, deadline) as connection:
        connection.sendall(request.encode("ascii"))
        while len(received) < _MAX_ANSWER_BYTES:
            connection.settimeout(_left(deadline))
            chunk = connection.recv(16_384)
            if not chunk:
                break
            received += chunk
    return received


def _connect(endpoint: base.Endpoint, deadline: float) -> socket.socket:
    if not endpoint.path:
        return socket.create_connection((endpoint.host, endpoint.port), timeout=_left(deadline))
    if not permissions.is_own_folder(Path(endpoint.path).parent):
        raise PermissionError(f"other users can access the folder of {endpoint.path}")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_left(deadline))
        connection.connect(endpoint.path)
    except BaseException:
        connection.close()
        raise
    return connection


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _told(body: bytes) -> dict[str, Any]:
    """The JSON object in the answer; empty if there is none."""
    with contextlib.suppress(ValueError):
        value = json.loads(body)
        if isinstance(value, dict):
            return value
    return {}


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9 else None


def _named_bundle(head: bytes, told: Mapping[str, Any]) -> str | None:
    """The bundle in the JSON body, else in the answer's header."""
    if isinstance(told.get("bundle"), str):
        return str(told["bundle"])
    for line in head.split(b"\r\n"):
        if line.lower().startswith(_HEADER):
            return line[len(_HEADER) :].strip().decode("latin-1")
    return None

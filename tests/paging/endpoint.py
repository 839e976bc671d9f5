"""A real HTTP server that plays pager, chat or webhook, also a bad one."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Any

WAIT_S = 30.0
"""Longest wait for something that must come."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request as it came in; `body` is its JSON."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What to answer. With `unfinished`, the body is announced but never comes."""

    status: int = 202
    body: bytes = b""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unfinished: bool = False


class Endpoint:
    """Gives `answers` in turn, then 202; holds everybody up while `hold` is set; keeps what it was asked."""

    def __init__(self, port: int = 0) -> None:
        self.answers: list[Answer] = []
        self.asked: queue.Queue[Asked] = queue.Queue()
        self.hold = False
        self._released = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def refuse(self, *statuses: int) -> None:
        """Answer with these statuses first."""
        self.answers += [Answer(status=status) for status in statuses]

    def take(self) -> Asked:
        """The next request, waiting until it comes."""
        return self.asked.get(timeout=WAIT_S)

    def taken(self) -> list[Asked]:
        """All requests that have come and were not taken yet."""
        return [self.asked.get_nowait() for _ in range(self.asked.qsize())]

    def release(self) -> None:
        """Let go of those who are held up."""
        self.hold = False
        self._released.set()

    def close(self) -> None:
        """Refuse connections from now on."""
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self) -> None:
        """Hold up the calling request if that is asked for."""
        if self.hold:
            self._released.wait(WAIT_S)


def _handler(endpoint: Endpoint) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            read = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            endpoint.asked.put(Asked(method=self.command, path=self.path, headers=headers, body=json.loads(read) if read else None))
            endpoint.wait()
            answer = endpoint.answers.pop(0) if endpoint.answers else Answer()
            with contextlib.suppress(OSError):
                self._answer(answer)

        def do_GET(self) -> None:
            self.do_POST()

        def _answer(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(answer.body) + 1000 * answer.unfinished))
            self.end_headers()
            self.wfile.write(answer.body)
            if answer.unfinished:
                self.wfile.flush()
                endpoint._released.wait(WAIT_S)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler


@contextlib.contextmanager
def serving(port: int = 0) -> Iterator[Endpoint]:
    """A server while the block runs; on *port* if somebody has to find it where another one was."""
    made = Endpoint(port)
    try:
        yield made
    finally:
        made.close()

"""Servers that speak like the hosted ones, on loopback: they answer as told, also badly."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

Reply = Callable[["Server", dict[str, Any]], tuple[int, dict[str, str], bytes]]


class Server:
    """What is asked stands in `asked`; `replies` are used up one by one, the last one again and again."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.url = ""

    def next(self, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        """The next reply."""
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return reply(self, body)


def answers(value: Any, *, status: int = 200, headers: dict[str, str] | None = None, sleep_s: float = 0.0) -> Reply:
    """A reply with this JSON, or these bytes."""

    def reply(_server: Server, _body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        time.sleep(sleep_s)
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        return status, headers or {}, data

    return reply


def openai(text: str | None = "Yes.", *, model: str = "gpt-5-2025-08-07") -> dict[str, Any]:
    """An answer of the one kind."""
    return {
        "id": "x", "object": "chat.completion", "created": 1, "model": model, "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }  # fmt: skip


def anthropic(text: str | None = "Yes.", *, model: str = "claude-sonnet-4-5-20250929") -> dict[str, Any]:
    """An answer of the other kind."""
    content = [] if text is None else [{"type": "text", "text": text}]
    return {
        "id": "x", "type": "message", "role": "assistant", "model": model, "content": content, "stop_reason": "end_turn",
        "stop_sequence": None, "usage": {"input_tokens": 7, "output_tokens": 2},
    }  # fmt: skip


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """*server* on a port of its own."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            data = self.rfile.read(int(self.headers.get("content-length", 0)))
            body = json.loads(data or b"{}")
            server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            status, headers, said = server.next(body)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                for name, value in {"content-type": "application/json", **headers, "content-length": str(len(said))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(said)

        do_GET = do_POST = handle_any  # noqa: N815  # the names are those of the methods

        def log_message(self, *args: object) -> None:
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    server.url = f"http://127.0.0.1:{listening.server_address[1]}"
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()

"""One GET with a time limit for the whole exchange: name look-up, connection, and every byte of the answer."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import urllib.parse

LIMIT_BYTES = 4 * 1024 * 1024


class Failed(Exception):
    """There was no complete answer; the text gives the reason."""


def get(url: str, *, timeout_s: float) -> tuple[int, bytes]:
    """Status and body. Follows no redirection and uses no proxy. Raises Failed after *timeout_s* seconds at the latest.

    A limit for each socket operation would not do: a server that sends a byte a second would keep it waiting indefinitely. So
    the exchange runs in a thread of its own, whose connection is cut when the time is over.
    """
    question = _Question(url, timeout_s=timeout_s)
    question.start()
    question.join(timeout_s)
    if question.is_alive():
        question.cut()
        raise Failed(f"{_shown(url)} did not answer within {timeout_s:g} s")
    if question.answer is None:
        raise Failed(f"{_shown(url)} did not answer: {question.trouble}")
    return question.answer


class _Question(threading.Thread):
    def __init__(self, url: str, *, timeout_s: float) -> None:
        super().__init__(name="gate-question", daemon=True)
        self._url = url
        self._timeout_s = timeout_s
        self._connection: http.client.HTTPConnection | None = None
        self.answer: tuple[int, bytes] | None = None
        self.trouble = ""

    def run(self) -> None:
        try:
            parts = urllib.parse.urlsplit(self._url)
            kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
            self._connection = kind(parts.netloc.rpartition("@")[2], timeout=self._timeout_s)
            target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
            self._connection.request("GET", target, headers={"user-agent": "lastgood", "connection": "close"})
            answer = self._connection.getresponse()
            body = answer.read(LIMIT_BYTES + 1)
            if len(body) > LIMIT_BYTES:
                self.trouble = f"more than {LIMIT_BYTES} bytes"
            else:
                self.answer = answer.status, body
        except (OSError, ValueError, http.client.HTTPException) as error:
            self.trouble = str(error) or repr(error)
        finally:
            if self._connection is not None:
                self._connection.close()

    def cut(self) -> None:
        """End the exchange; the thread then ends by itself."""
        connected = self._connection.sock if self._connection is not None else None
        if connected is not None:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)


def _shown(url: str) -> str:
    """*url* without parts that may be secret: a password, a query."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

"""A tiny HTTP server that answers as it is told, also badly."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Server:
    """Sends `answer` to whoever asks: whole, byte by byte if `drip_s` is set, or not at all if it is None. Keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: bytes | None = b""
        self.drip_s = 0.0
        self.asked: list[str] = []
        self.stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def say(self, status: int, body: bytes = b"") -> None:
        """Answer *status* with *body* from now on."""
        self.answer = b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)

    def close(self) -> None:
        """Refuse connections from now on."""
        self.stop.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self.asked.append(connection.recv(65_536).split(b"\r\n", 1)[0].decode())
            if self.answer is None:
                self.stop.wait(30)
                return
            if not self.drip_s:
                connection.sendall(self.answer)
                return
            for byte in self.answer:
                connection.sendall(bytes([byte]))
                if self.stop.wait(self.drip_s):
                    return


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server while the block runs."""
    made = Server()
    try:
        yield made
    finally:
        made.close()

"""The peer of the traffic measurement: the smallest fair proxy that one would write in Python, an ASGI application around httpx.

python -m bench.httpx_proxy --port P --to PORT
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import httpx
import uvicorn

Message = MutableMapping[str, Any]
HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"host", b"content-length"})


def application(to: str) -> Callable[..., Awaitable[None]]:
    """Forwards every request to *to* over kept-alive connections, and returns the answer."""
    client = httpx.AsyncClient(base_url=to, limits=httpx.Limits(max_connections=100, max_keepalive_connections=100), timeout=5.0)

    async def app(scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
        if scope["type"] != "http":
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = [pair for pair in scope["headers"] if pair[0] not in HOP_BY_HOP]
        answer = await client.request(scope["method"], scope["path"], content=body, headers=headers)
        kept = [(key.lower(), value) for key, value in answer.headers.raw if key.lower() not in HOP_BY_HOP]
        kept.append((b"content-length", str(len(answer.content)).encode()))
        await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
        await send({"type": "http.response.body", "body": answer.content})

    return app


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", type=int, required=True)
    options = parser.parse_args()
    app = application(f"http://127.0.0.1:{options.to}")
    uvicorn.run(
        app, host="127.0.0.1", port=options.port, loop="uvloop", http="httptools", lifespan="off", access_log=False, log_level="error"
    )


if __name__ == "__main__":
    main()

"""A fake of Pinecone's REST API (version 2026-07 as documented), for the few calls that we make. It is not Pinecone.

Writes become readable after `lag` further requests; `fail` makes the next requests answer with a status.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import math
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

KEY = "test-key"


class Fake:
    """The state of one index."""

    def __init__(self, *, lag: int = 0) -> None:
        self.lag = lag
        self.fail: list[int] = []
        self.namespaces: dict[str, dict[str, dict[str, Any]]] = {}
        self.aliases: dict[str, str] = {}
        self.pending: list[tuple[int, Any]] = []
        self.requests = 0
        self.keys: set[str] = set()
        self.lock = threading.Lock()
        self.url = ""

    def answer(self, method: str, path: str, params: dict[str, list[str]], body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and body."""
        self.requests += 1
        for due, write in list(self.pending):
            if self.requests > due:
                write()
                self.pending.remove((due, write))
        if self.fail:
            return self.fail.pop(0), {"message": "told to fail"}
        route = {
            ("POST", "/vectors/upsert"): self.upsert,
            ("POST", "/vectors/delete"): self.delete,
            ("POST", "/query"): self.query,
            ("POST", "/describe_index_stats"): self.stats,
            ("POST", "/namespace-aliases"): self.create_alias,
        }.get((method, path))
        if route is not None:
            return route(body)
        if method == "GET":
            return self.get(path, params)
        return self.change_alias(method, path.rpartition("/")[2], body)

    def later(self, write: Any) -> tuple[int, dict[str, Any]]:
        """A write that becomes readable after a while."""
        self.pending.append((self.requests + self.lag, write))
        if not self.lag:
            self.pending.pop()[1]()
        return 200, {}

    def upsert(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Rows into a namespace."""
        if len(body["vectors"]) > 1000 or any(not any(one["values"]) for one in body["vectors"]):
            return 400, {"message": "too many rows, or a vector of zeros"}
        rows = {one["id"]: one for one in body["vectors"]}
        return self.later(lambda: self.namespaces.setdefault(body["namespace"], {}).update(rows))

    def delete(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Rows, or a whole namespace."""
        name = body["namespace"]
        if name not in self.namespaces:
            return 404, {"message": "namespace not found"}
        if body.get("deleteAll"):
            return self.later(lambda: self.namespaces.pop(name, None))
        return self.later(lambda: [self.namespaces.get(name, {}).pop(one, None) for one in body["ids"]])

    def query(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Nearest by cosine."""
        rows = self.namespaces.get(body["namespace"], {}).values()
        scored = sorted(({**one, "score": cosine(body["vector"], one["values"])} for one in rows), key=lambda one: -one["score"])
        matches = [{"id": one["id"], "score": one["score"], "metadata": one["metadata"]} for one in scored[: body["topK"]]]
        return 200, {"matches": matches, "namespace": body["namespace"]}

    def stats(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Rows by namespace."""
        return 200, {"namespaces": {name: {"vectorCount": len(rows)} for name, rows in self.namespaces.items() if rows}}

    def get(self, path: str, params: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        """Lists and fetches."""
        if path == "/namespace-aliases":
            return 200, {"aliases": [{"name": name, "target_namespace": target} for name, target in self.aliases.items()]}
        rows = self.namespaces.get(params["namespace"][0], {})
        if path == "/vectors/fetch":
            return 200, {"vectors": {one: rows[one] for one in params["ids"] if one in rows}}
        names, limit = sorted(rows), int(params["limit"][0])
        start = int(params.get("paginationToken", ["0"])[0])
        token = {"pagination": {"next": str(start + limit)}} if start + limit < len(names) else {}
        return 200, {"vectors": [{"id": one} for one in names[start : start + limit]], **token}

    def create_alias(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """A new alias."""
        if body["target_namespace"] not in self.namespaces:
            return 404, {"message": "no such namespace"}
        self.aliases[body["name"]] = body["target_namespace"]
        return 201, {}

    def change_alias(self, method: str, alias: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Another target, or none any more."""
        if alias not in self.aliases:
            return 404, {"message": "no such alias"}
        if method == "DELETE":
            del self.aliases[alias]
        else:
            self.aliases[alias] = body["target_namespace"]
        return 200, {}


def cosine(one: list[float], other: list[float]) -> float:
    """Cosine similarity."""
    lengths = math.sqrt(sum(a * a for a in one)) * math.sqrt(sum(b * b for b in other))
    return sum(a * b for a, b in zip(one, other, strict=True)) / lengths if lengths else 0.0


@contextlib.contextmanager
def running(fake: Fake) -> Iterator[Fake]:
    """*fake* on a loopback port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            place = urllib.parse.urlsplit(self.path)
            data = self.rfile.read(int(self.headers.get("content-length", 0)))
            with fake.lock:
                fake.keys.add(self.headers.get("api-key", ""))
                if self.headers.get("api-key") != KEY or self.headers.get("x-pinecone-api-version") != "2026-07":
                    status, said = 401, {"message": "unknown key"}
                else:
                    status, said = fake.answer(self.command, place.path, urllib.parse.parse_qs(place.query), json.loads(data or b"{}"))
            body = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815  # the names are those of the methods

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()

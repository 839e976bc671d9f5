"""Real HTTP upstreams, a real Envoy and small clients for the tests of the traffic layer."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lastgood import testing
from lastgood.bundle import manifest
from lastgood.layers import base
from lastgood.layers.traffic.envoy import layer as envoy
from lastgood.service import schema
from lastgood.settings import Settings

SERVICE = "echo"


def make_bundle(number: int) -> manifest.Bundle:
    """A bundle whose id depends on *number* only."""
    part = manifest.Part(name="config", digest=manifest.sha256(b"%d" % number), size=1, media_type="text/plain", uri="store:x")
    return manifest.bundle_of(SERVICE, part)


A, B, C = make_bundle(1), make_bundle(2), make_bundle(3)
BY_ID = {bundle.id: bundle for bundle in (A, B, C)}


class Upstream:
    """A worker for tests: answers with its bundle id and what it was sent; `/slow` waits, `/wait/MS` too, `/fail` gives 500, `/poison` is a row that it cannot compute if it is `poisoned`."""

    def __init__(self, bundle_id: str) -> None:
        self.bundle_id = bundle_id
        self.failing = False
        self.poisoned = False
        self.requests: list[str] = []
        self.seen: list[dict[str, str]] = []
        """The headers of each of them."""
        self.release = threading.Event()
        upstream = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body in one packet; else each answer waits 40 ms for a delayed acknowledgement.
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                if self.path != "/readyz":
                    upstream.requests.append(self.path)
                    upstream.seen.append({key.lower(): value for key, value in self.headers.items()})
                if self.path.startswith("/slow"):
                    upstream.release.wait(10)
                if self.path.startswith("/wait/"):
                    time.sleep(int(self.path.removeprefix("/wait/")) / 1000)
                status = 500 if self.path != "/readyz" and (upstream.failing or self.path.startswith("/fail")) else 200
                body = json.dumps({"bundle": upstream.bundle_id, "headers": {k.lower(): v for k, v in self.headers.items()}}).encode()
                poisoned = upstream.poisoned and self.path == "/poison"
                self.send_response(422 if poisoned else status)
                if poisoned:
                    self.send_header("x-lastgood-problem", "uncomputable")
                for name, value in (
                    ("content-length", str(len(body))),
                    ("x-lastgood-bundle", upstream.bundle_id),
                    ("x-lastgood-revision", "0"),
                ):
                    self.send_header(name, value)
                given = self.headers.get("x-request-id", "")
                self.send_header("x-request-id", given if given.isprintable() and " " not in given else f"worker-{len(upstream.requests)}")
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815  # the name is http.server's

            def log_message(self, *args: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

            def __init__(self, *args: Any) -> None:
                super().__init__(*args)
                self.open: set[socket.socket] = set()

            def process_request(self, request: Any, client_address: Any) -> None:
                self.open.add(request)
                super().process_request(request, client_address)

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = base.Endpoint("127.0.0.1", self.server.server_port)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    def crash(self) -> None:
        """Stop listening and reset every connection, as the kernel does for a process that was killed."""
        self.server.shutdown()
        self.server.server_close()
        for connection in list(self.server.open):
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                connection.shutdown(socket.SHUT_RDWR)
                connection.close()
        self.release.set()


@dataclasses.dataclass(kw_only=True)
class Reply:
    """One answer as a client sees it."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def bundle(self) -> str:
        return self.headers["x-lastgood-bundle"]

    @property
    def revision(self) -> int:
        return int(self.headers["x-lastgood-revision"])


class World:
    """One service with Envoy and upstreams. `ready` is what the infrastructure layer would say."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(project=folder, home=folder / "home")
        self.port = testing.free_port()
        self.service = self.configured()
        self.upstreams: dict[str, Upstream] = {}
        self.ready: dict[str, tuple[base.Endpoint, ...]] = {}

    def configured(self, **traffic: Any) -> schema.Service:
        """The service's configuration with some of its traffic settings changed."""
        value = {"schema": schema.SCHEMA, "service": SERVICE, "tier": "real-time-api", "owner": "tests"}
        return schema.Service.model_validate({**value, "traffic": {"port": self.port, **traffic}})

    def start(self) -> envoy.Running:
        return envoy.start(self.settings, SERVICE, self.service)

    def layer(self) -> envoy.EnvoyTraffic:
        return envoy.build(self.settings, SERVICE, lambda: self.ready)

    def serve(self, *found: manifest.Bundle) -> None:
        """One more ready worker for each bundle."""
        for bundle in found:
            upstream = Upstream(bundle.id)
            self.upstreams[bundle.id] = upstream
            self.ready[bundle.id] = (*self.ready.get(bundle.id, ()), upstream.endpoint)

    def desired(self, revision: int, stable: manifest.Bundle | None, **more: Any) -> base.Desired:
        """A desired state: all traffic to *stable* unless `weights` says otherwise; aliases may be bundles."""
        aliases = {key: value.id for key, value in more.items() if key in ("candidate", "previous") and value is not None}
        weights = more.get("weights", {stable.id: 100.0} if stable else {})
        return base.Desired(
            service=more.get("service", self.service),
            revision=revision,
            stable=stable.id if stable else None,
            weights=weights,
            salt=more.get("salt", ""),
            mirror=more.get("mirror"),
            control=more.get("control", False),
            bundles=BY_ID,
            **aliases,
        )

    def get(self, path: str = "/", *, method: str = "GET", body: bytes | None = None, **headers: str) -> Reply:
        """One request on a connection of its own; underscores in header names become dashes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            return ask(connection, path, method=method, body=body, **headers)

    def close(self) -> None:
        envoy.stop(self.settings, SERVICE)
        for upstream in self.upstreams.values():
            upstream.crash()


def ask(connection: http.client.HTTPConnection, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str) -> Reply:
    """One request on *connection*."""
    connection.request(method, path, body=body, headers={key.replace("_", "-"): value for key, value in headers.items()})
    answer = connection.getresponse()
    text = answer.read()
    value = json.loads(text) if answer.headers.get_content_type() == "application/json" or text[:1] == b"{" else text
    return Reply(status=answer.status, headers={key.lower(): found for key, found in answer.getheaders()}, body=value)


def until(condition: Callable[[], object], *, within_s: float = 15.0, what: str) -> None:
    """Poll *condition* until it is true; fail naming *what* if it is not in time."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, f"not within {within_s:g} s: {what}"
        time.sleep(0.01)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One request under load: monotonic send time, status (0: the connection broke), bundle and revision."""

    sent: float
    status: int
    bundle: str = ""
    revision: int = -1
    why: str = ""


class Load:
    """Steady requests over kept-alive connections, one list of shots for each connection."""

    def __init__(self, port: int, *, connections: int = 8, path: str = "/") -> None:
        self.shots: list[list[Shot]] = [[] for _ in range(connections)]
        self._port, self._path = port, path
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(shots,), daemon=True) for shots in self.shots]

    def _run(self, shots: list[Shot]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        while not self._stop.is_set():
            sent = time.monotonic()
            try:
                reply = ask(connection, self._path)
                shots.append(
                    Shot(sent=sent, status=reply.status, bundle=reply.headers.get("x-lastgood-bundle", ""), revision=reply.revision)
                )
            except (OSError, http.client.HTTPException, KeyError) as error:
                shots.append(Shot(sent=sent, status=0, why=repr(error)))
                connection.close()
            # Not a wait for something: a steady pace leaves the interpreter to the code under test.
            self._stop.wait(0.008)
        connection.close()

    def count(self) -> int:
        return sum(len(shots) for shots in self.shots)

    @property
    def failed(self) -> list[Shot]:
        return [shot for shots in self.shots for shot in shots if shot.status != 200]


@contextlib.contextmanager
def load(port: int, *, connections: int = 8, path: str = "/") -> Iterator[Load]:
    """Load while the block runs."""
    running = Load(port, connections=connections, path=path)
    for thread in running._threads:
        thread.start()
    try:
        until(lambda: all(running.shots), what="every connection has an answer")
        yield running
    finally:
        running._stop.set()
        for thread in running._threads:
            thread.join(15)

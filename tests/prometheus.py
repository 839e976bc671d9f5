"""A real Prometheus for tests, from the distribution's package, on loopback, scraping a page that the test decides."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lastgood import testing
from tests import tools

START_DEADLINE_S = 60.0
SCRAPE_S = 0.2


class Page:
    """What is scraped: `text` in the exposition format."""

    def __init__(self) -> None:
        self.text = ""
        page = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = page.text.encode()
                self.send_response(200)
                self.send_header("content-type", "text/plain; version=0.0.4")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


class Prometheus:
    """A started server. `page` is what it scrapes."""

    def __init__(self, url: str, page: Page) -> None:
        self.url = url
        self.page = page

    def ask(self, query: str) -> Any:
        """The result of an instant query."""
        place = urllib.parse.urlsplit(self.url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/api/v1/query?" + urllib.parse.urlencode({"query": query}))
            return json.loads(connection.getresponse().read())["data"]["result"]

    def show(self, text: str, *, until: str) -> None:
        """Let it scrape *text*; returns when the query *until* has a result."""
        self.page.text = text
        end = time.monotonic() + 15
        while not self.ask(until):
            assert time.monotonic() < end, f"prometheus has not scraped {until!r}"
            time.sleep(0.05)


@contextlib.contextmanager
def serving() -> Iterator[Prometheus]:
    """A Prometheus of its own; ended and removed at the end. Skips the test where the program is not installed; CI has it."""
    program = tools.find("prometheus")
    folder = Path(tempfile.mkdtemp(prefix="lg-prom-"))
    page = Page()
    port = testing.free_port()
    job = {"job_name": "test", "static_configs": [{"targets": [f"127.0.0.1:{page.server.server_port}"]}]}
    interval = f"{round(SCRAPE_S * 1000)}ms"
    (folder / "prometheus.yml").write_text(
        json.dumps({"global": {"scrape_interval": interval, "scrape_timeout": interval}, "scrape_configs": [job]})
    )
    command = [program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)
    try:
        _await_ready(process, port, folder / "log")
        yield Prometheus(f"http://127.0.0.1:{port}", page)
    finally:
        process.terminate()
        process.wait(20)
        page.server.shutdown()
        page.server.server_close()
        shutil.rmtree(folder, ignore_errors=True)


def _await_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_DEADLINE_S
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", "/-/ready")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.05)

"""Steady traffic through the proxy of a service, with outcomes sent back and every answer recorded. Loopback only.

A service defines the requests and the outcomes; this module has the schedule: `rate` requests a second over a few
keep-alive connections, until a file appears or the time is over. An outcome follows its answer after a while, as in reality.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from lastgood.layers.traffic import headers as traffic_headers

TIMEOUT_S = 20.0

Outcome = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
"""The true outcome, as fields of a feedback, once the answer (the body of /predict) is known; None if there is none."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One row to request. `facts` are recorded with the answer."""

    body: bytes
    facts: Mapping[str, Any]
    outcome: Outcome


class Load:
    """See the module. Its output lines have n, sent, received, status, bundle, revision, arm, answer and the request's facts."""

    def __init__(
        self, *, port: int, requests: Iterable[Request], rate: float, out: TextIO, stop: Path, until: float, delay_s: float, token: str
    ) -> None:
        self._port = port
        self._token = token
        self._numbered = enumerate(requests)
        self._rate = rate
        self._out = out
        self._stop = stop
        self._until = until
        self._delay_s = delay_s
        self._outcomes: collections.deque[tuple[float, bytes]] = collections.deque()
        self._begun = time.time()
        self._lock = threading.Lock()

    def run(self, connections: int) -> None:
        """Send requests until stopped."""
        threads = [threading.Thread(target=self._client) for _ in range(connections)]
        threads.append(threading.Thread(target=self._tell_outcomes))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        while True:
            with self._lock:
                if self._over():
                    return
                number, request = next(self._numbered)
            time.sleep(max(0.0, self._begun + number / self._rate - time.time()))
            line = self._ask(connection, number, request)
            with self._lock:
                self._out.write(json.dumps(line) + "\n")
                self._out.flush()

    def _ask(self, connection: http.client.HTTPConnection, number: int, request: Request) -> dict[str, Any]:
        """One request, with its outcome scheduled; a connection error counts as a failed answer."""
        line: dict[str, Any] = {"n": number, **request.facts, "body": request.body.decode(), "sent": time.time()}
        headers = {
            "content-type": "application/json",
            "x-user-id": f"user-{number % 997}",
            "x-request-id": f"load-{self._begun:.0f}-{number}",
            traffic_headers.TOKEN: self._token,  # so that the answer names its arm and parts
        }
        try:
            connection.request("POST", "/predict", body=request.body, headers=headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
            line["received"] = time.time()
            line["status"] = response.status
            for name in ("bundle", "revision", "arm"):
                line[name] = response.headers.get(f"x-lastgood-{name}")
            line["answer"] = answer
            outcome = request.outcome(answer) if response.status == 200 else None
            if outcome is not None:
                feedback = {"request_id": response.headers.get("x-lastgood-request-id"), **outcome}
                self._outcomes.append((time.time() + self._delay_s, json.dumps(feedback).encode()))
        except (OSError, http.client.HTTPException, ValueError) as error:
            line.setdefault("received", time.time())
            line.setdefault("status", 0)
            line["error"] = repr(error)
            connection.close()
        return line

    def _over(self) -> bool:
        return self._stop.exists() or time.time() > self._until

    def _tell_outcomes(self) -> None:
        """Send each outcome when it is due; one that is lost counts as never sent."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        while not self._over():
            due = [self._outcomes.popleft() for _ in range(len(self._outcomes)) if self._outcomes[0][0] <= time.time()]
            for _, body in due:
                try:
                    connection.request("POST", "/feedback", body=body, headers={"content-type": "application/json"})
                    connection.getresponse().read()
                except (OSError, http.client.HTTPException):
                    connection.close()
            time.sleep(0.02)


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every load has."""
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--label-delay", type=float, default=0.0, help="seconds from an answer to its outcome")
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--token-file", type=Path, required=True, help="the debug token of the home")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stop", type=Path, required=True)


def run(call: argparse.Namespace, requests: Iterable[Request]) -> None:
    """Send *requests* according to the options of *call*."""
    with call.out.open("w", encoding="utf-8") as out:
        until = time.time() + call.seconds
        token = call.token_file.read_text("utf-8").strip()
        schedule = {"rate": call.rate, "until": until, "delay_s": call.label_delay}
        load = Load(port=call.port, requests=requests, out=out, stop=call.stop, token=token, **schedule)
        load.run(call.connections)

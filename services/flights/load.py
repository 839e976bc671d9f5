"""Steady traffic of real past flights through the proxy, with labels sent back, every answer written down.

    python -m services.flights.load --port 8380 --prepared DIR --months 3 4 5 6 --rate 100 --out FILE --stop FILE

Loopback only. It ends when the stop file appears, when the flights are used up, or after `--seconds`.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from services.flights import replay

TIMEOUT_S = 10.0


class Load:
    """A few keep-alive connections that share one schedule of `rate` requests per second."""

    def __init__(self, *, port: int, flights: Iterator[replay.Flight], rate: float, out: TextIO, stop: Path, until: float) -> None:
        self._port = port
        self._numbered = enumerate(flights)
        self._rate = rate
        self._out = out
        self._stop = stop
        self._until = until
        self._begun = time.time()
        self._lock = threading.Lock()

    def run(self, connections: int) -> None:
        threads = [threading.Thread(target=self._client) for _ in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        while True:
            with self._lock:
                taken = next(self._numbered, None)
            if taken is None or self._stop.exists() or time.time() > self._until:
                return
            number, flight = taken
            time.sleep(max(0.0, self._begun + number / self._rate - time.time()))
            line = self._ask(connection, number, flight)
            with self._lock:
                self._out.write(json.dumps(line) + "\n")
                self._out.flush()

    def _ask(self, connection: http.client.HTTPConnection, number: int, flight: replay.Flight) -> dict[str, Any]:
        """One flight asked and its label sent; a connection error is an answer too: a failed one."""
        line: dict[str, Any] = {"n": number, "flight": flight.at, "late": flight.late, "body": flight.body.decode(), "sent": time.time()}
        headers = {"content-type": "application/json", "x-user-id": f"user-{number % 997}", "x-request-id": f"flight-{self._begun:.0f}-{number}"}
        try:
            connection.request("POST", "/predict", body=flight.body, headers=headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
            line["received"] = time.time()
            line["status"] = response.status
            line["bundle"] = response.headers.get("x-lastgood-bundle")
            line["revision"] = response.headers.get("x-lastgood-revision")
            line["arm"] = response.headers.get("x-lastgood-arm")
            line["answer"] = answer
            feedback = {"request_id": response.headers.get("x-request-id"), "late": flight.late}
            connection.request("POST", "/feedback", body=json.dumps(feedback), headers={"content-type": "application/json"})
            line["feedback"] = self._drain(connection)
        except (OSError, http.client.HTTPException, ValueError) as error:
            line.setdefault("received", time.time())
            line.setdefault("status", 0)
            line["error"] = repr(error)
            connection.close()
        return line

    @staticmethod
    def _drain(connection: http.client.HTTPConnection) -> int:
        response = connection.getresponse()
        response.read()
        return response.status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--prepared", type=Path, required=True, help="folder of the monthly files")
    parser.add_argument("--months", type=int, nargs="+", required=True)
    parser.add_argument("--every", type=int, default=10, help="take each n-th flight, so that time passes faster")
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stop", type=Path, required=True)
    options = parser.parse_args()
    flights = itertools.chain.from_iterable(replay.flights(options.prepared, [month], every=options.every) for month in options.months)
    with options.out.open("w", encoding="utf-8") as out:
        until = time.time() + options.seconds
        Load(port=options.port, flights=flights, rate=options.rate, out=out, stop=options.stop, until=until).run(options.connections)


if __name__ == "__main__":
    main()

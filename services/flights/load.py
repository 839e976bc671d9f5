"""Steady traffic of real past flights through the proxy, with labels sent back, every answer written down.

    python -m services.flights.load --port 8380 --prepared DIR --month FILE --rate 50 --out FILE --stop FILE

The month file holds the number of the month that is being lived through; whoever tells the story writes it. Within a
month flights come in order of time, one in `STRIDE`, then again from the start with the next ones, so a few seconds
already sample the whole month. A label follows its answer
after `--label-delay` seconds, as a flight lands after it departs. Loopback only. It ends when the stop file appears, or
after `--seconds`.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import itertools
import json
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from services.flights import replay

TIMEOUT_S = 10.0
STRIDE = 12
"""A month has about 27,000 flights, so one pass takes some 2,250 of them."""


class Months:
    """The flights of whatever month the file names just now."""

    def __init__(self, prepared: Path, file: Path) -> None:
        self._prepared = prepared
        self._file = file
        self._begun: dict[int, Iterator[replay.Flight]] = {}

    def __iter__(self) -> Iterator[replay.Flight]:
        while True:
            month = int(self._file.read_text())
            if month not in self._begun:
                self._begun[month] = self._whole(month)
            yield next(self._begun[month])

    def _whole(self, month: int) -> Iterator[replay.Flight]:
        flights = list(replay.flights(self._prepared, [month]))
        for first in itertools.cycle(range(STRIDE)):
            yield from flights[first::STRIDE]


class Load:
    """A few keep-alive connections that share one schedule of `rate` requests per second."""

    def __init__(
        self, *, port: int, flights: Iterable[replay.Flight], rate: float, out: TextIO, stop: Path, until: float, label_delay_s: float
    ) -> None:
        self._label_delay_s = label_delay_s
        self._labels: collections.deque[tuple[float, bytes]] = collections.deque()
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
        threads.append(threading.Thread(target=self._label))
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
                number, flight = next(self._numbered)
            time.sleep(max(0.0, self._begun + number / self._rate - time.time()))
            line = self._ask(connection, number, flight)
            with self._lock:
                self._out.write(json.dumps(line) + "\n")
                self._out.flush()

    def _ask(self, connection: http.client.HTTPConnection, number: int, flight: replay.Flight) -> dict[str, Any]:
        """One flight asked and its label sent; a connection error is an answer too: a failed one."""
        line: dict[str, Any] = {"n": number, "flight": flight.at, "late": flight.late, "body": flight.body.decode(), "sent": time.time()}
        headers = {
            "content-type": "application/json",
            "x-user-id": f"user-{number % 997}",
            "x-request-id": f"flight-{self._begun:.0f}-{number}",
        }
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
            self._labels.append((time.time() + self._label_delay_s, json.dumps(feedback).encode()))
        except (OSError, http.client.HTTPException, ValueError) as error:
            line.setdefault("received", time.time())
            line.setdefault("status", 0)
            line["error"] = repr(error)
            connection.close()
        return line

    def _over(self) -> bool:
        return self._stop.exists() or time.time() > self._until

    def _label(self) -> None:
        """Send each label when it is due; one that gets lost is a label that never came."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        while not self._over():
            due = [self._labels.popleft() for _ in range(len(self._labels)) if self._labels[0][0] <= time.time()]
            for _, body in due:
                try:
                    connection.request("POST", "/feedback", body=body, headers={"content-type": "application/json"})
                    connection.getresponse().read()
                except (OSError, http.client.HTTPException):
                    connection.close()
            time.sleep(0.02)


def main() -> None:
    """Send requests until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--prepared", type=Path, required=True, help="folder of the monthly files")
    parser.add_argument("--month", type=Path, required=True, help="file that holds the number of the current month")
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--label-delay", type=float, default=0.0, help="seconds from an answer to its label")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stop", type=Path, required=True)
    options = parser.parse_args()
    with options.out.open("w", encoding="utf-8") as out:
        flights, until = Months(options.prepared, options.month), time.time() + options.seconds
        load = Load(
            port=options.port, flights=flights, rate=options.rate, out=out, stop=options.stop, until=until,
            label_delay_s=options.label_delay,
        )  # fmt: skip
        load.run(options.connections)


if __name__ == "__main__":
    main()

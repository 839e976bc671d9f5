"""Real past flights as traffic, each followed by its outcome.

    python -m demos.flights_load --port 8380 --prepared DIR --month FILE --rate 50 --out FILE --stop FILE

The month file contains the number of the current month; the demonstration writes it. Within a month flights come in order of
time, one in `STRIDE`, then again from the start with the next ones, so a few seconds already sample the whole month. With
`--in-order 6,7 --every 3` instead, the flights of these months are sent in order of time, one in three, once. A label follows
its answer after `--label-delay` seconds, as a flight lands after it departs.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

from demos import load_generator as traffic
from services.flights import replay

STRIDE = 12
"""A month has about 27,000 flights, so one pass takes some 2,250 of them."""


class Months:
    """The flights of the month that the file currently names."""

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


def request(flight: replay.Flight) -> traffic.Request:
    """The request about *flight*, and its outcome, which does not depend on the answer."""
    return traffic.Request(
        body=flight.body, facts={"flight": flight.at, "late": flight.late}, outcome=lambda _answer: {"late": flight.late}
    )


def main() -> None:
    """Send requests until stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    traffic.options(parser)
    parser.add_argument("--prepared", type=Path, required=True, help="folder of the monthly files")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--month", type=Path, help="file that holds the number of the current month")
    which.add_argument("--in-order", type=lambda text: [int(word) for word in text.split(",")], help="months that go by, such as 6,7")
    parser.add_argument("--every", type=int, default=1, help="with --in-order: one flight in so many")
    call = parser.parse_args()
    asked = Months(call.prepared, call.month) if call.month else replay.flights(call.prepared, call.in_order, every=call.every)
    traffic.run(call, map(request, asked))


if __name__ == "__main__":
    main()

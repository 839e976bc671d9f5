"""Reading the access log on: over rotations, restarts, half lines and hands that have been in it. No Envoy."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lastgood.layers.traffic.envoy import logs as envoy_logs
from lastgood.layers.traffic.envoy import requests as envoy_requests
from lastgood.layers.traffic.envoy.requests import RequestLog
from tests.layers.traffic.world import B
from tests.sources.lines import line


class Writer:
    """Writes the log as Envoy does: keeps its file open until it is told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written = 0
        self._at = 1000.0
        self.reopen()

    def reopen(self) -> None:
        self._file = self.path.open("ab", buffering=0)

    def write(self, count: int, *, cut: bool = False) -> None:
        """*count* lines; with *cut* the last one comes in two pieces, of which this is the first."""
        for number in range(count):
            self._at += 0.5
            text = line(B.id, at=self._at, host=f"h-{self.written}")
            self.written += 1
            if cut and number == count - 1:
                self._rest = text[40:]
                text = text[:40]
            self._file.write(text)

    def finish(self) -> None:
        self._file.write(self._rest)

    def turn(self) -> None:
        """Put aside, as the layer does, and be told."""
        assert envoy_logs._turn_requests(self.path, now=self._at, full_bytes=0)
        self.reopen()


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    """A log in an empty folder."""
    return Writer(tmp_path / "access.log")


def hosts(batch: envoy_requests.Batch) -> list[str]:
    """Which lines came."""
    return [request.host for request in batch.requests]


def numbered(first: int, last: int) -> list[str]:
    """The lines from *first* up to *last*."""
    return [f"h-{number}" for number in range(first, last)]


@pytest.mark.parametrize(("written", "user"), [({}, "0123456789abcdef"), ({"user": None}, "")])
def test_a_line_names_its_user_or_nobody(written: dict[str, None], user: str) -> None:
    """Empty for a request without a key."""
    found = envoy_requests.parse(line(B.id, **written))
    assert found is not None
    assert found.user == user


def test_a_line_by_an_older_release_names_nobody() -> None:
    """It has no such key, and counts all the same."""
    value = json.loads(line(B.id))
    del value["user"]
    found = envoy_requests.parse(json.dumps(value).encode())
    assert found is not None
    assert (found.user, found.code) == ("", 200)


def test_reading_goes_on_where_it_ended(writer: Writer) -> None:
    """Half a line is left for the next time."""
    log = RequestLog(writer.path)
    writer.write(5)
    place = log.end()
    writer.write(4, cut=True)
    batch = log.read(place)
    assert hosts(batch) == numbered(5, 8)
    writer.finish()
    assert hosts(log.read(batch.end)) == numbered(8, 9)


def test_a_log_without_a_line_is_read_from_its_beginning(writer: Writer) -> None:
    """Nothing was there at the first look; what comes then is new, also if it is put aside before the second."""
    log = RequestLog(writer.path)
    assert log.end() == envoy_requests.BEGINNING
    writer.write(3)
    writer.turn()
    writer.write(2)
    assert hosts(log.read(envoy_requests.BEGINNING)) == numbered(0, 5)


def test_an_empty_new_file_does_not_move_the_place(writer: Writer) -> None:
    """Just put aside, nothing written since: the place is the end of the one before."""
    log = RequestLog(writer.path)
    writer.write(3)
    writer.turn()
    place = log.end()
    assert log.read(place).requests == ()
    writer.write(2)
    assert hosts(log.read(place)) == numbered(3, 5)


def test_lines_that_come_before_the_proxy_is_told_are_read(writer: Writer) -> None:
    """Renamed, and Envoy still writes into the old file; killed before it is told, it goes on there."""
    log = RequestLog(writer.path)
    writer.write(3)
    place = log.end()
    assert envoy_logs._turn_requests(writer.path, now=2000.0, full_bytes=0)
    writer.write(2)
    batch = log.read(place)
    assert hosts(batch) == numbered(3, 5)
    writer.write(1)
    writer.reopen()
    writer.write(1)
    assert hosts(log.read(batch.end)) == numbered(5, 7)


def test_who_was_away_for_long_reads_what_is_still_there_once(writer: Writer) -> None:
    """More files came than are kept: the lost ones are lost, nothing is read twice."""
    log = RequestLog(writer.path)
    writer.write(3)
    place = log.end()
    for _ in range(envoy_requests.PUT_ASIDE + 2):
        writer.turn()
        writer.write(10)
    batch = log.read(place)
    assert hosts(batch) == numbered(writer.written - 10 * (envoy_requests.PUT_ASIDE + 1), writer.written)
    assert log.read(batch.end).requests == ()


def test_a_log_that_somebody_emptied_is_read_from_its_new_beginning(writer: Writer) -> None:
    """`> access.log` by hand, with older files beside it: these have been read and stay so."""
    log = RequestLog(writer.path)
    writer.write(3)
    writer.turn()
    writer.write(3)
    place = log.end()
    writer.path.write_bytes(b"")
    writer.write(2)
    assert hosts(log.read(place)) == numbered(6, 8)


def test_a_long_log_is_read_in_pieces(writer: Writer) -> None:
    """A look takes a bounded time; what is left comes with the next ones, each line once."""
    log = RequestLog(writer.path)
    writer.write(2500)
    writer.turn()
    writer.write(1200)
    place, found = envoy_requests.BEGINNING, []
    while len(found) < 3700:
        batch = log.read(place, limit_s=0.0)
        assert 0 < batch.lines <= 1000 + 1200
        place, found = batch.end, found + hosts(batch)
    assert found == numbered(0, 3700)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["write", "cut", "turn", "move", "look", "restart"]), max_size=60), st.randoms(use_true_random=False))
def test_each_line_is_read_once(tmp_path_factory: pytest.TempPathFactory, steps: list[str], chance: random.Random) -> None:
    """Whatever is written, put aside and looked at in whatever order: every line once, in order."""
    writer = Writer(tmp_path_factory.mktemp("log") / "access.log")
    log, place, found, half, since_look = RequestLog(writer.path), envoy_requests.BEGINNING, [], False, 0
    for step in steps:
        if half:
            writer.finish()
            half = False
        match step:
            case "write":
                writer.write(chance.randint(1, 5))
            case "cut":
                writer.write(chance.randint(1, 5), cut=True)
                half = True
            case "turn" | "move" if since_look < envoy_requests.PUT_ASIDE and writer.path.exists():
                if envoy_logs._turn_requests(writer.path, now=0.0, full_bytes=0):
                    since_look += 1
                    if step == "turn":
                        writer.reopen()
            case "look" | "restart":
                if step == "restart":
                    log = RequestLog(writer.path)
                    place = envoy_requests.place(place.to_json()) or place
                    if not writer.path.exists():
                        writer.reopen()
                batch = log.read(place)
                place, found, since_look = batch.end, found + hosts(batch), 0
    if half:
        writer.finish()
    found += hosts(log.read(place))
    assert found == numbered(0, writer.written)

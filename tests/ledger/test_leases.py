"""Of several controllers one does the work, and a dead one is replaced."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import threading
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from typing import Any

import pytest

from lastgood import errors
from lastgood.ledger import Ledger, connect
from lastgood.ledger.leases import MAX_SKEW_S
from tests.ledger import foreign
from tests.ledger.children import killed
from tests.ledger.world import SERVICE, digest, promote, register

NAME = "gates/flights"
TTL_S = 15.0
RACERS = 4
RACES = 12


def take(ledger: Ledger, holder: str, now: float, *, name: str = NAME) -> bool:
    """*holder* asks for the lease at *now*."""
    return ledger.lease(name, holder=holder, now=now, ttl_s=TTL_S)


def row(url: str, name: str = NAME) -> tuple[str, float, int]:
    """Holder, end and token as the table has them."""
    with foreign.connected(url) as client:
        ((holder, until, token),) = client.run("SELECT holder, until, token FROM lease WHERE name = ?", name)
    return holder, until, token


def test_one_holder_at_a_time(ledger: Ledger):
    """A free lease is taken, nobody else gets it while it lasts, and one lease says nothing about another."""
    assert take(ledger, "a", 100.0)
    assert not take(ledger, "b", 100.0)
    assert not take(ledger, "b", 114.9)
    assert take(ledger, "b", 100.0, name="gates/helpdesk")
    assert take(ledger, "a", 114.0)


def test_an_ended_lease_changes_hands(ledger: Ledger, url: str):
    """The first who asks after its end has it, under the next token, and the holder before learns of it."""
    assert take(ledger, "a", 100.0)
    assert row(url) == ("a", 115.0, 1)
    assert take(ledger, "b", 115.0)
    assert row(url) == ("b", 130.0, 2)
    assert not take(ledger, "a", 116.0)
    assert take(ledger, "a", 130.0)
    assert row(url) == ("a", 145.0, 3)


def test_a_holder_renews_in_good_time(ledger: Ledger, url: str):
    """While more than half is left its call writes nothing; later it goes on under the same token, even after the end."""
    for now, until in ((100.0, 115.0), (107.0, 115.0), (107.5, 122.5), (200.0, 215.0)):
        assert take(ledger, "a", now)
        assert row(url) == ("a", until, 1)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_holder_need_not_wait_for_a_writer(ledger: Ledger, url: str):
    """On SQLite, where one transaction writes at a time, asking during the first half and being refused only read."""
    assert take(ledger, "a", 100.0)
    with foreign.connected(url) as client, connect(url, busy_timeout_s=0.05) as other:
        client.run("BEGIN IMMEDIATE")
        assert take(other, "a", 101.0)
        assert not take(other, "b", 101.0)
        with pytest.raises(errors.Unavailable, match="locked by another process"):
            take(other, "b", 116.0)
        client.run("ROLLBACK")
        assert take(other, "b", 116.0)


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_a_release_under_way_is_in_nobodys_way(ledger: Ledger, url: str):
    """On Postgres a lease is taken, and a measurement and a page are written, while another transaction holds the service."""
    register(ledger, 1)
    promote(ledger, digest(1))
    page: dict[str, Any] = {"key": "k", "severity": "info", "summary": "s", "body": {}, "now": 1.0}
    with connect(url, busy_timeout_s=0.1) as other, ledger._writing(SERVICE):
        assert take(other, "a", 100.0)
        assert other.record(SERVICE, "1/canary", {}, now=1.0) == 1
        assert other.page(SERVICE, revision=1, **page)
        with pytest.raises(errors.Unavailable, match="locked by another process"):
            other.note(SERVICE, kind="x", body={}, actor="x", now=1.0)
    for lock in (f"lease/{NAME}", f"measurement/{SERVICE}", f"page/{SERVICE}"):
        with connect(url, busy_timeout_s=0.1) as other, ledger._writing(lock):
            other.note(SERVICE, kind="x", body={}, actor="x", now=1.0)


def test_a_lease_that_is_given_up_is_free_at_once(ledger: Ledger, url: str):
    """The next one need not wait for its end; whoever does not have it can give up nothing."""
    ledger.give_up_lease(NAME, holder="a")
    assert take(ledger, "a", 100.0)
    ledger.give_up_lease(NAME, holder="b")
    assert not take(ledger, "b", 101.0)
    ledger.give_up_lease(NAME, holder="a")
    assert take(ledger, "b", 101.0)
    ledger.give_up_lease(NAME, holder="a")
    assert row(url) == ("b", 116.0, 2)


def test_clocks_that_differ_by_seconds(ledger: Ledger):
    """A clock that is ahead takes over that much early, one that is behind that much late; the former holder is told at its next call."""
    ahead_s = 5.0
    assert take(ledger, "a", 100.0)
    refused = [now for now in range(100, 110) if not take(ledger, "ahead", now + ahead_s)]
    assert refused == list(range(100, 110))
    assert take(ledger, "ahead", 110.0 + ahead_s)
    assert not take(ledger, "a", 110.0)
    assert not take(ledger, "behind", 130.0 - 0.1)
    assert take(ledger, "behind", 130.0)


def test_a_clock_that_was_wrong_keeps_nobody_out_for_ever(ledger: Ledger):
    """A lease that ends later than any sound clock can mean counts as free; one within the tolerance does not."""
    assert take(ledger, "wrong", 4e9)
    assert take(ledger, "b", 100.0)
    assert not take(ledger, "c", 100.0)
    tolerated = "tolerated"
    assert take(ledger, "ahead", 100.0 + MAX_SKEW_S, name=tolerated)
    assert not take(ledger, "b", 100.0, name=tolerated)
    assert take(ledger, "b", 99.9, name=tolerated)


@pytest.mark.parametrize(
    "wrong", [{"holder": ""}, {"name": ""}, {"ttl_s": 0.0}, {"ttl_s": -1.0}, {"holder": "a\0b"}, {"now": float("nan")}, {"now": 1e12}]
)
def test_a_lease_that_means_nothing_is_refused(ledger: Ledger, wrong: dict[str, Any]):
    """Missing names, times that are none and text that no engine stores are the caller's mistake; nothing is written."""
    asked: dict[str, Any] = {"name": NAME, "holder": "a", "now": 100.0, "ttl_s": TTL_S} | wrong
    with pytest.raises(errors.UsageError):
        ledger.lease(asked.pop("name"), **asked)
    assert take(ledger, "b", 100.0)


def test_threads_that_ask_at_once(ledger: Ledger, url: str):
    """Of threads with connections of their own exactly one gets each lease, free or ended, under the next token."""
    start = threading.Barrier(RACERS)
    won: list[tuple[int, str]] = []

    def race(holder: str) -> None:
        with connect(url, busy_timeout_s=30) as own:
            won.extend(_race(own, holder, start.wait))

    threads = [threading.Thread(target=race, args=(f"thread {number}",)) for number in range(RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    _check(url, won)


def test_processes_that_ask_at_once(ledger: Ledger, url: str):
    """The same for processes, as controllers are."""
    context = multiprocessing.get_context("fork")
    start, told = context.Barrier(RACERS), context.SimpleQueue()
    ledger.close()
    processes = [context.Process(target=_process, args=(url, f"process {number}", start, told)) for number in range(RACERS)]
    for process in processes:
        process.start()
    won = [one for _ in processes for one in told.get()]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * RACERS
    _check(url, won)


def _process(url: str, holder: str, start: Barrier, told: Any) -> None:
    with connect(url, busy_timeout_s=30) as own:
        told.put(_race(own, holder, start.wait))


def _race(ledger: Ledger, holder: str, ready: Callable[[], object]) -> list[tuple[int, str]]:
    """The races that *holder* won; each begins when the one before has ended."""
    won = []
    for number in range(RACES):
        ready()
        if take(ledger, holder, 100.0 * (number + 1)):
            won.append((number, holder))
    return won


def _check(url: str, won: list[tuple[int, str]]) -> None:
    assert sorted(number for number, _ in won) == list(range(RACES))
    winners = [holder for _, holder in sorted(won)]
    changes = sum(former != winner for former, winner in itertools.pairwise(winners))
    assert row(url) == (winners[-1], 100.0 * RACES + TTL_S, 1 + changes)


@pytest.mark.parametrize(
    ("place", "holds"), [("ledger.after_begin", False), ("ledger.before_commit", False), ("ledger.after_commit", True)]
)
def test_a_holder_that_is_killed(ledger: Ledger, url: str, place: str, holds: bool):
    """Killed before the commit it has nothing; after it, the lease runs out and somebody else goes on."""
    ledger.close()
    assert killed(url, f"{place}=kill", lambda own: take(own, "dead", 100.0)) == -signal.SIGKILL
    assert take(ledger, "b", 101.0) is not holds
    assert take(ledger, "b", 115.0)

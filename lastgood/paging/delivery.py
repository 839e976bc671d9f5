"""Delivery of the pages waiting in the ledger: to each channel independently, at least once, for as long as it takes.

A page is stored in the ledger together with the change it is about. From there it goes to a file and to every configured channel;
what a channel does not accept is retried, soon at first and hourly after a day, and never given up. After a crash between sending
and noting, the page is sent again: the same file, the same key at the pager.

What does not belong here: the text of a page (`message`), how a channel works (`channels`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence

from lastgood import errors
from lastgood import ledger as ledgers
from lastgood.paging import channels
from lastgood.paging.message import text
from lastgood.settings import Settings
from lastgood.system import clock as system_clock

__all__ = ["PageLoop", "backoff", "deliver", "text"]

log = logging.getLogger("lastgood.paging")

FIRST_S, LONGEST_S = 1.0, 300.0
"""Seconds between tries: a random part of a range that doubles from two seconds to five minutes."""
DAY_S, HOURLY_S = 86_400.0, 3600.0
"""After a day a page is old news and is retried once an hour."""
BATCH = 5
"""Number of pages given to a channel in one pass: with a slow channel the pass ends well within LEASE_S."""
LEASE_S = 60.0
"""Seconds after which another controller takes over a channel."""

Chance = Callable[[], float]


def deliver(ledger: ledgers.Ledger, settings: Settings, *, now: float, chance: Chance = random.random) -> int:
    """One pass over every channel in turn, the file first: send what is due at *now* (Unix seconds), record the results.

    Returns how many pages were sent, counted once per channel. Raises only what the ledger raises.
    """
    ways = channels.configured(settings)
    sent = sum(deliver_over(ledger, channel, now=now, chance=chance) for channel in ways)
    settle(ledger, ways, now=now)
    return sent


def deliver_over(
    ledger: ledgers.Ledger, channel: channels.Channel, *, now: float, chance: Chance = random.random, may: Callable[[], bool] = lambda: True
) -> int:
    """The same for one channel. Once there is something to send, *may* is called to check that this process is the one to send it."""
    if not ledger.due_pages(channel.name, now=now, limit=1) or not may():
        return 0
    sent = 0
    # Read again now that this process is the sender: the previous one may have sent some since.
    for page in ledger.due_pages(channel.name, now=now, limit=BATCH):
        wanted = channel.wants(page)
        failure = _send(channel, page) if wanted else None
        if failure is None:
            ledger.page_tried(page, channel.name, now=now, delivered=True)
            sent += wanted
            continue
        tries = page.deliveries[channel.name].tries + 1 if page.deliveries else 1
        again = now + backoff(tries, age_s=abs(now - page.at), chance=chance)
        ledger.page_tried(page, channel.name, now=now, delivered=False, error=str(failure), next_at=again)
        log.warning("page %r of %s was not delivered (try %d): %s", page.key, page.service, tries, failure)
        if failure.down:
            break
    return sent


def _send(channel: channels.Channel, page: ledgers.Page) -> channels.Undelivered | None:
    try:
        channel.send(page)
    except channels.Undelivered as error:
        return error
    except Exception as error:  # noqa: BLE001  # a page that breaks its channel must not block the others
        # Only the type of error: its text may contain the address, and with it a secret.
        return channels.Undelivered(f"{channel.name}: {type(error).__name__} while sending; report it with the page", down=False)
    return None


def settle(ledger: ledgers.Ledger, ways: Sequence[channels.Channel], *, now: float) -> int:
    """Close the pages that every channel has; returns how many."""
    return ledger.settle_pages([channel.name for channel in ways], now=now)


def backoff(tries: int, *, age_s: float, chance: Chance = random.random) -> float:
    """Seconds until a page that is *age_s* old is retried after this many *tries*: full jitter, 1 s to 5 min; hourly after a day."""
    if age_s > DAY_S:
        return HOURLY_S
    return FIRST_S + chance() * (min(LONGEST_S, 2.0 ** min(tries, 20)) - FIRST_S)


class PageLoop:
    """Delivers every second until it is ended, one thread per channel, so that a dead pager delays no other channel.

    Runs until `end` is called: an unreachable ledger or an error of a channel is logged and retried. Of several controllers one serves
    each channel.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = system_clock.now, pause_s: float = 1.0) -> None:
        ways = channels.configured(settings)
        self._stop = threading.Event()
        self._threads = [_ChannelLoop(settings, channel, ways, clock=clock, pause_s=pause_s, stop=self._stop) for channel in ways]

    @property
    def threads(self) -> Sequence[_ChannelLoop]:
        """One for each channel."""
        return self._threads

    def start(self) -> None:
        """Begin; returns at once."""
        for thread in self._threads:
            thread.start()

    def end(self, wait_s: float = 0.0) -> None:
        """Stop at the next iteration; waits up to *wait_s* seconds for it. What was not delivered stays in the ledger."""
        self._stop.set()
        deadline = time.monotonic() + wait_s
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))


class _ChannelLoop(threading.Thread):
    """One channel, with a ledger connection of its own."""

    def __init__(
        self,
        settings: Settings,
        channel: channels.Channel,
        ways: Sequence[channels.Channel],
        *,
        clock: Callable[[], float],
        pause_s: float,
        stop: threading.Event,
    ) -> None:
        super().__init__(name=f"pages/{channel.name}", daemon=True)
        self._settings = settings
        self._channel = channel
        self._ways = ways
        self._clock = clock
        self._pause_s = pause_s
        self._stopped = stop
        self._holder = f"{socket.gethostname()}/{os.getpid()}/{id(self)}"
        self.turned_at = time.monotonic()
        # A slow channel may keep it for the whole of its lease.
        self.due_s = pause_s + LEASE_S

    def run(self) -> None:
        limits = self._settings.ledger
        said = ""
        with ledgers.connect(self._settings.ledger_url, busy_timeout_s=limits.busy_timeout_s) as book:
            while not self._stopped.is_set():
                self.turned_at = time.monotonic()
                trouble = self._turn(book)
                if trouble and trouble != said:
                    log.warning("%s: %s", self.name, trouble)
                said = trouble
                self._stopped.wait(self._pause_s)
            with contextlib.suppress(errors.LastgoodError):
                book.give_up_lease(self.name, holder=self._holder)

    def _turn(self, book: ledgers.Ledger) -> str:
        """One pass; returns the reason that prevented it, if any. The reason is logged once, not every second."""
        try:
            now = self._clock()
            deliver_over(book, self._channel, now=now, may=lambda: self._may(book))
            if self._channel.name == channels.FILE:
                settle(book, self._ways, now=now)
        except errors.LastgoodError as error:
            return str(error)
        except Exception:
            log.exception("%s: unexpected error; the next pass tries again", self.name)
        return ""

    def _may(self, book: ledgers.Ledger) -> bool:
        ttl_s = max(LEASE_S, 3 * self._settings.paging.timeout_s)
        return book.lease(self.name, holder=self._holder, now=self._clock(), ttl_s=ttl_s)

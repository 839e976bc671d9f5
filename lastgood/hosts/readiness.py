"""Which workers are ready, as the hosts that run them report in the ledger: the basis of all automatic decisions.

No decision rests on what one host happens to see. A host that cannot start or reach a worker reports that in its own rows, next to
those of the hosts that can; a host that no longer reports is unknown, which is neither ready nor not ready.

What does not belong here: the rows (`ledger.readiness`), asking workers (`layers.infrastructure`), who decides (`ledger.leases`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import socket
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from lastgood.ledger import Ledger, Readiness, Seen
from lastgood.settings import Settings

Word = Literal["ready", "not ready", "unknown"]

MISSED = 3
"""Heartbeats that a host may miss before its workers count as unknown."""
AHEAD_S = 60.0
"""Seconds by which a host's clock may be ahead of the reader's."""
GONE_S = 86_400.0
"""Seconds of silence after which a host counts as gone: its last report then no longer blocks anything."""


@functools.cache
def _host(home: str) -> str:
    return f"{socket.gethostname()}/{hashlib.sha256(home.encode()).hexdigest()[:8]}"


def host(settings: Settings) -> str:
    """The name under which this machine reports the workers of this home. Two homes on one machine are two hosts."""
    return _host(str(settings.home))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What all hosts together report on a service's workers at `now` (Unix seconds). `stale_s`: silence that makes a host unknown."""

    rows: tuple[Readiness, ...]
    now: float
    stale_s: float

    def word(self, arm: str) -> Word:
        """Ready if a host reports it; not ready if all that report on it deny it, and none that had it ready fell silent; else unknown."""
        spoken = [row for row in self.rows if row.arm == arm and self._age_s(row) < GONE_S]
        fresh = [row for row in spoken if self._fresh(row)]
        if any(row.ready for row in fresh):
            return "ready"
        silent = any(row.ready for row in spoken if row not in fresh)
        return "not ready" if fresh and not silent else "unknown"

    @property
    def arms(self) -> frozenset[str]:
        """Arms on which a host has reported anything."""
        return frozenset(row.arm for row in self.rows)

    @property
    def ready(self) -> frozenset[str]:
        return frozenset(arm for arm in self.arms if self.word(arm) == "ready")

    @property
    def unready(self) -> frozenset[str]:
        """Arms that are known not to be ready."""
        return frozenset(arm for arm in self.arms if self.word(arm) == "not ready")

    def failing(self, arm: str) -> bool:
        """Whether the arm is not ready and starting its worker has failed: it is unlikely to be ready soon."""
        return self.word(arm) == "not ready" and any(row.failures > 0 for row in self._of(arm))

    def homes(self, arm: str) -> frozenset[str]:
        """Hosts whose latest report has the arm ready, including hosts that have fallen silent."""
        return frozenset(row.host for row in self.rows if row.arm == arm and row.ready and self._age_s(row) < GONE_S)

    def denied(self, arm: str) -> tuple[str, ...]:
        """Hosts that currently report the arm as not ready, by name."""
        return tuple(sorted(row.host for row in self._of(arm) if not row.ready))

    def since(self, arm: str) -> float | None:
        """Since when the arm is in the state given by `word` (Unix seconds); None if unknown."""
        word = self.word(arm)
        rows = [row for row in self._of(arm) if row.ready == (word == "ready")]
        if word == "unknown" or not rows:
            return None
        return min(row.since for row in rows) if word == "ready" else max(row.since for row in rows)

    def why(self, arm: str) -> str:
        """What went wrong with the arm's workers, by host; if unknown, the host that reported last; empty if there is nothing to report."""
        word = self.word(arm)
        if word == "ready":
            return ""
        spoken = [row for row in self.rows if row.arm == arm]
        if word == "unknown":
            if not spoken:
                return "no host has a worker for it"
            last = max(spoken, key=lambda row: row.seen_at)
            return f"host {last.host} has not reported for {self._age_s(last):.0f} s; check that its controller is running"
        return "; ".join(dict.fromkeys(row.detail for row in self._of(arm) if row.detail))

    def to_json(self, arm: str) -> dict[str, Any]:
        """The stable form of what is known about one arm."""
        hosts = [dataclasses.asdict(row) for row in self.rows if row.arm == arm]
        return {"state": self.word(arm), "since": self.since(arm), "failing": self.failing(arm), "why": self.why(arm), "hosts": hosts}

    def text(self, arm: str) -> str:
        """The same in a few words."""
        word, why = self.word(arm), self.why(arm)
        since = self.since(arm)
        lasts = f" for {max(0.0, self.now - since):.0f} s" if word == "not ready" and since is not None else ""
        said = {"ready": "warm", "not ready": f"not ready{lasts}", "unknown": "not known to be warm"}[word]
        return f"{said}: {why}" if why else said

    def _of(self, arm: str) -> list[Readiness]:
        return [row for row in self.rows if row.arm == arm and self._fresh(row)]

    def _fresh(self, row: Readiness) -> bool:
        return -AHEAD_S <= self.now - row.seen_at <= self.stale_s

    def _age_s(self, row: Readiness) -> float:
        return abs(self.now - row.seen_at)


def read(ledger: Ledger, service: str, *, settings: Settings, now: float) -> View:
    """The hosts' reports on *service* at Unix time *now*."""
    return View(rows=tuple(ledger.readiness(service)), now=now, stale_s=MISSED * settings.controller.heartbeat_s)


def report(
    ledger: Ledger,
    service: str,
    *,
    settings: Settings,
    ready: Collection[str],
    wanted: Sequence[str],
    troubles: Mapping[str, tuple[int, str]],
    now: float,
) -> View:
    """Report what this host sees: which of the *wanted* arms are *ready*, and what is wrong with others.

    For the latter see `layers.base.Processes.troubles`. Returns what all hosts then report.

    Written only when something has changed, and every `controller.heartbeat_s` seconds as a heartbeat.
    """
    view = read(ledger, service, settings=settings, now=now)
    mine = {row.arm: row for row in view.rows if row.host == host(settings)}
    seen = {arm: Seen(arm in ready, *(() if arm in ready else troubles.get(arm, ()))) for arm in wanted}
    silent = any(not 0 <= now - row.seen_at < settings.controller.heartbeat_s for row in mine.values())
    if not silent and {arm: (row.ready, row.failures > 0) for arm, row in mine.items()} == {
        arm: (one.ready, one.failures > 0) for arm, one in seen.items()
    }:
        return view
    ledger.report_readiness(service, host=host(settings), seen=seen, now=now)
    return read(ledger, service, settings=settings, now=now)


class ReadyArms(NamedTuple):
    """The basis of a decision: the arms whose workers are ready, and those that are unknown."""

    ready: Collection[str]
    unknown: Collection[str]


def arms_by_readiness(view: View, awaited: Collection[str]) -> ReadyArms:
    """Which arms are `ready`, with no *awaited* arm `unknown`, for a decision.

    Where no host reports any worker, as without an infrastructure layer, no worker counts as not ready.
    """
    if not view.rows:
        return ReadyArms(ready=awaited, unknown=())
    return ReadyArms(ready=view.ready, unknown=[arm for arm in awaited if view.word(arm) == "unknown"])


def ranked(lineage: Sequence[str], view: View) -> list[str]:
    """*lineage* with warm bundles first, and those whose workers cannot be started last; otherwise in the same order."""
    return sorted(lineage, key=lambda digest: 0 if view.word(digest) == "ready" else 2 if view.failing(digest) else 1)

"""Windows judged one after the other: the result of each, given the reference and the windows before it.

The same for the log of what is served (`watch`) and for a table of the past (`backtest`): only the reader of the rows differs.

What does not belong here: the ledger, pages, and which host reports (`watch`); the statistics (`verdict`, `losses`, `alarm`).
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from lastgood.bundle.manifest import short
from lastgood.drift import alarm, losses, verdict
from lastgood.drift import window as drift_window
from lastgood.drift.calibration import Calibration
from lastgood.drift.kept_state import State
from lastgood.drift.reference import LABEL, PROBABILITY, Sample
from lastgood.service import drift as drift_rules
from lastgood.system import plain

if TYPE_CHECKING:
    from lastgood.drift.reference import Values

PARTS = 22
"""A window uses at most one part in this many of the reference's rows, so that there are enough stretches that overlap by half."""
HOUR_S = 3600.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DriftWatch:
    """What is watched: the stable bundle, the start of the watch (Unix seconds), and the rules."""

    service: str
    bundle: str
    since: float
    revision: int
    rules: drift_rules.Drift

    @property
    def analysis(self) -> str:
        """The name of its windows in the ledger."""
        return f"drift/{short(self.bundle)}/{self.revision}"

    def begin(self, number: int) -> float:
        """When window *number* begins, in Unix seconds."""
        return self.since + number * self.rules.window_s


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WindowReport:
    """One evaluated window. `seen` counts all its rows, of which `verdict` may use only a part.

    `alarm` is the beginning of the alarm that is open after it, or that it closed (Unix seconds); None if there is none. `host`
    evaluated it, from its own log; empty for a window evaluated by an earlier release. `scored` in the verdict lists the windows whose
    labels were read.
    """

    number: int
    begin: float
    end: float
    seen: int
    verdict: Mapping[str, Any]
    episode: alarm.FailingRun
    change: alarm.Change
    alarm: float | None
    host: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "verdict": dict(self.verdict), "episode": self.episode.to_json()}


class Rows(Protocol):
    """Reads a window: rows with *since* <= `at` < *until* (Unix seconds), thinned evenly to at most *most*."""

    def __call__(self, *, since: float, until: float, columns: Collection[str], most: int) -> drift_window.Window: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a bundle contains to be judged by: its reference, what is usual for so many rows in so many seconds, and its own features."""

    reference: Sample
    usual: Callable[[int, float], Calibration | None]
    features: Callable[[drift_window.Window], Sample]


class Judge:
    """Judges the windows of *what* in order. `number` is the next one, `episode` the service's alarm state before it."""

    def __init__(self, what: DriftWatch, made: Made, rows: Rows) -> None:
        self.number, self.episode = 0, alarm.FailingRun()
        self._what, self._made, self._rows = what, made, rows
        base = losses.baseline(made.reference, what.rules)
        self._losses = losses.Track(base, alpha=what.rules.alpha) if base is not None else None
        self._pending = losses.Pending(what.rules)
        self._kept: Mapping[str, verdict.Kept] = {}
        self._states = 0
        self._settled: list[float] = []

    @property
    def most(self) -> int:
        """Number of rows of a window that are kept: with more, the reference has too few stretches to determine what is usual."""
        rules = self._what.rules
        return max(rules.min_rows, min(rules.max_rows, self._made.reference.rows // PARTS))

    def keep(self, states: Sequence[State]) -> None:
        """Count the *states* in which alarms were decided as `keep`, oldest first, as usual too; each restarts the test of the loss."""
        reference = self._made.reference
        self._kept = {name: kept for state in states for name, kept in state.columns(reference).items()}
        self._settled += [state.until for state in states[self._states :]]
        self._states = len(states)

    def follow(self, looked: WindowReport) -> None:
        """Take in a window that was judged before."""
        self._settle(looked.begin)
        for value in looked.verdict.get("scored", ()):
            self._take(losses.from_json(value), number=looked.number)
        self.go_on(looked)

    def go_on(self, looked: WindowReport) -> None:
        """Continue after the window that `look` returned."""
        self.number, self.episode = looked.number + 1, looked.episode

    def look(self) -> WindowReport:
        """Judge the next window."""
        rules, since, until = self._what.rules, self._what.begin(self.number), self._what.begin(self.number + 1)
        self._settle(since)
        late = self._losses is not None and self._pending.late
        columns = [name for name in self._made.reference.columns if not (late and name == LABEL)]
        window = self._rows(since=since, until=until, columns=columns, most=self.most)
        scored, labels = self._scores(window) if self._losses is not None else ([], [])
        if late and window.sample.rows:
            window = _with_labels(window, labels)
        found = self.verdict(window, since=since, until=until, scored=scored)
        after, change = alarm.follow(
            self.episode, found, begin=since, persistence=rules.persistence, scored=self._what.begin(self._pending.newest + 1)
        )
        begun = self.episode.alarm if after.alarm is None else after.alarm
        told = plain.mended({**found.to_json(), **({"scored": [one.to_json() for one in scored]} if scored else {})})
        return WindowReport(
            number=self.number, begin=since, end=until, seen=window.rows, verdict=told, episode=after, change=change, alarm=begun
        )

    def verdict(
        self, window: drift_window.Window, *, since: float, until: float, scored: Sequence[losses.Scored] = ()
    ) -> verdict.WindowVerdict:
        """The verdict on the rows of *window*, with the loss as it stands."""
        rules = self._what.rules
        span = drift_window.span_s(window.sample) if rules.time else rules.window_s
        usual = self._made.usual(window.sample.rows, span) if window.sample.rows >= rules.min_rows else None
        return verdict.of_window(
            self._made.features(window),
            self._made.reference,
            usual,
            rules,
            trouble=window.trouble,
            kept=self._kept,
            loss=self._losses.column(scored) if self._losses is not None else None,
            quiet=is_quiet(rules, since=since, until=until),
        )

    def _settle(self, begin: float) -> None:
        """Restart the test of the loss where an alarm was decided as `keep` before the window that begins at *begin*."""
        while self._settled and self._settled[0] <= begin:
            self._settled.pop(0)
            if self._losses is not None:
                self._losses.restart()

    def _scores(self, window: drift_window.Window) -> tuple[list[losses.Scored], list[Values]]:
        """The results of the windows whose labels are due at this look, taken in, and the labels of those that are complete."""
        found, labels = [], []
        for number in self._pending.due(self.number):
            read = window if number == self.number else self._labels(number)
            if read.sample.rows:
                found.append(self._score(number, read))
                self._take(found[-1], number=self.number)
                labels += [read.sample.columns[LABEL]] if found[-1].blocks else []
        return found, labels

    def _labels(self, number: int) -> drift_window.Window:
        begin, end = self._what.begin(number), self._what.begin(number + 1)
        return self._rows(since=begin, until=end, columns=(PROBABILITY, LABEL), most=self.most)

    def _score(self, number: int, read: drift_window.Window) -> losses.Scored:
        rules = self._what.rules
        loss = losses.of_rows(read.sample, rules.decide.score)
        found = losses.Scored(window=number, rows=read.sample.rows, labelled=len(loss))
        if not self._pending.whole(found, number=self.number):
            return found
        return dataclasses.replace(found, blocks=losses.blocks(loss, rules))

    def _take(self, scored: losses.Scored, *, number: int) -> None:
        self._pending.take(scored, number=number)
        if self._losses is not None:
            self._losses.take(scored.blocks, at=self._what.begin(scored.window))


def _with_labels(window: drift_window.Window, labels: Sequence[Values]) -> drift_window.Window:
    """*window* with the labels due at its look instead of its own, of which only the quick ones have arrived."""
    import numpy as np

    kept = {name: values for name, values in window.sample.columns.items() if name != LABEL}
    due = {LABEL: np.concatenate(labels)} if labels else {}
    return dataclasses.replace(window, sample=dataclasses.replace(window.sample, columns={**kept, **due}))


def is_quiet(rules: drift_rules.Drift, *, since: float, until: float) -> bool:
    """Whether *since* to *until* (Unix seconds) lies within the hours of the day, UTC, in which no rows are expected."""
    if not rules.quiet:
        return False
    first, last = math.floor(since / HOUR_S), math.ceil(until / HOUR_S)
    hours = {datetime.datetime.fromtimestamp(hour * HOUR_S, datetime.UTC).hour for hour in range(first, min(last, first + 24))}
    return hours <= set(rules.quiet)

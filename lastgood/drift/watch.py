"""The watch on live traffic: each completed window is evaluated once, in order, and the result is recorded.

Safe to be called by any process at any time: a tick that was killed is repeated from where the ledger stands, and of two concurrent
ticks one wins. The windows of a bundle begin when it becomes stable. A window is evaluated by a host that serves the bundle, because
only such a host has the log; of several, each sees its own part, and the record names the host.

What does not belong here: the result for a window (`judging`), what follows from an alarm (`decision`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from lastgood import release
from lastgood.bundle.manifest import short
from lastgood.core.state import State
from lastgood.drift import alarm, kept_state
from lastgood.drift import bundle_reference as drift_reference
from lastgood.drift import window as drift_window
from lastgood.drift.calibration import Calibration
from lastgood.drift.judging import DriftWatch, Judge, Made, WindowReport
from lastgood.drift.reference import Sample
from lastgood.drift.verdict import LOSS, WindowVerdict
from lastgood.hosts import vantage
from lastgood.paging import once
from lastgood.service import frozen as frozen_service
from lastgood.service.drift import DAY_S
from lastgood.system import plain
from lastgood.system.failpoints import failpoint

__all__ = [
    "NOTE",
    "DriftWatch",
    "WindowReport",
    "at_present",
    "evaluate_next_window",
    "judge_of",
    "made_by",
    "open_alarm",
    "read",
    "watch_of_service",
    "window_reports",
]

NOTE = "drift"
WRITING_S = 4.0
"""Seconds allowed for writing a flush."""
AT_ONCE = 31
"""Number of windows that one tick evaluates; the next tick continues."""


def watch_of_service(ctx: release.Context, service: str) -> DriftWatch | None:
    """What is watched of *service* now; None if nothing serves, or its bundle does not enable drift."""
    state = ctx.ledger.state(service)
    if state.stable is None:
        return None
    frozen = frozen_service.read(ctx.ledger.bundle(state.stable), store=ctx.store)
    if frozen is None or frozen.drift is None:
        return None
    moved = release.last_move(ctx, state)
    # A window is not read before the slowest writer's log contains it.
    settle_s = max(frozen.drift.settle_s, frozen.serving.log_flush_s + WRITING_S)
    rules = frozen.drift.model_copy(update={"settle_s": settle_s})
    return DriftWatch(service=service, bundle=state.stable, since=moved.at, revision=moved.number, rules=rules)


def window_reports(ctx: release.Context, what: DriftWatch) -> Iterator[WindowReport]:
    """The windows evaluated so far, oldest first."""
    for row in ctx.ledger.recorded(what.service, what.analysis):
        body = row["body"]
        if body["after"] == row["seq"] - 1:  # else another process was faster with the same window
            yield WindowReport(**{**body["looked"], "episode": alarm.from_json(body["looked"]["episode"])}, host=body.get("host", ""))


def open_alarm(found: Sequence[WindowReport]) -> float | None:
    """When the alarm began (Unix seconds) that is open after the windows *found* (oldest first); None if there is none."""
    return found[-1].episode.alarm if found else None


def evaluate_next_window(ctx: release.Context, what: DriftWatch, *, now: float, at_once: int = AT_ONCE) -> list[WindowReport]:
    """Evaluate the windows that are over by Unix time *now* and were not evaluated yet; returns them. Pages when an alarm begins or ends.

    Raises NotFound or Damaged if the bundle contains no reference, and Conflict if other hosts serve it and this one does not; a window
    that cannot be read counts as broken data and is not an error. If other hosts serve too, a window without rows waits for one window
    length: they may have had the traffic.
    """
    seen_from = vantage.check_vantage(ctx, what.service, what.bundle, now=now)
    before = list(window_reports(ctx, what))
    teller = once.Notifier(ctx, what.service)
    for one in before:
        _tell(ctx, what, one, teller, now=now)  # the process that found it may have died before paging
    known = _recorded(ctx, what)
    found: list[WindowReport] = []
    number = max(before[-1].number + 1 if before else 0, _oldest(ctx, what, now=now))
    judge = judge_of(ctx, what, before) if _is_over(what, number, now=now) else None
    while judge is not None and len(found) < at_once and _is_over(what, number, now=now):
        judge.number = number
        one = _look(judge, seen_from=seen_from)
        if one.seen == 0 and seen_from.others and not _is_over(what, number + 1, now=now):
            break  # one of the others may have seen more
        failpoint("drift.before_record")
        seq = ctx.ledger.record(what.service, what.analysis, _written(one, after=known), now=now)
        if seq != known + 1:
            break  # another tick is at work; the next one finds its windows
        failpoint("drift.after_record")
        _tell(ctx, what, one, teller, now=now)
        failpoint("drift.after_page")
        found.append(one)
        judge.go_on(one)
        known, number = seq, number + 1
    return found


def at_present(ctx: release.Context, what: DriftWatch, *, now: float) -> tuple[float, int, WindowVerdict]:
    """The verdict on the answers of the last window length before *now*, with its beginning and its rows; nothing is recorded.

    A window is judged when it is over, and an alarm needs several: this shows the numbers before that.
    """
    since = max(what.since, now - what.rules.window_s)
    judge = judge_of(ctx, what, list(window_reports(ctx, what)))
    reference = drift_reference.of_bundle(ctx.settings, ctx.ledger.bundle(what.bundle))
    window = read(ctx, what, since=since, until=now, columns=reference.columns, most=judge.most)
    return since, window.rows, judge.verdict(window, since=since, until=now)


def _is_over(what: DriftWatch, number: int, *, now: float) -> bool:
    return what.begin(number + 1) + what.rules.settle_s <= now


def judge_of(ctx: release.Context, what: DriftWatch, before: Sequence[WindowReport]) -> Judge:
    """The judge of the windows that follow *before*. Raises NotFound or Damaged if the bundle contains no reference."""

    def rows(*, since: float, until: float, columns: Collection[str], most: int) -> drift_window.Window:
        return read(ctx, what, since=since, until=until, columns=columns, most=most)

    judge = Judge(what, made_by(ctx, what), rows)
    reports = (one.report for one in ctx.ledger.evaluations(what.bundle) if one.kind == kept_state.KIND)
    judge.keep(kept_state.of_reports(reports, since=what.since))
    for one in before:
        judge.follow(one)
    return judge


def made_by(ctx: release.Context, what: DriftWatch) -> Made:
    """What the watched bundle contains to be judged by."""
    bundle = ctx.ledger.bundle(what.bundle)
    reference = drift_reference.of_bundle(ctx.settings, bundle)

    def usual(rows: int, span_s: float) -> Calibration | None:
        return drift_reference.usual(ctx.settings, bundle, reference, rows=rows, span_s=span_s)

    def features(window: drift_window.Window) -> Sample:
        return drift_reference.with_features(ctx.settings, bundle, reference, window)

    return Made(reference=reference, usual=usual, features=features)


def _written(one: WindowReport, *, after: int) -> dict[str, Any]:
    """The form stored in the ledger; the host is a separate key, where an earlier release does not read it."""
    looked = one.to_json()
    return {"after": after, "host": looked.pop("host"), "looked": looked}


def _oldest(ctx: release.Context, what: DriftWatch, *, now: float) -> int:
    """The first window whose rows the log still has."""
    frozen = frozen_service.read(ctx.ledger.bundle(what.bundle), store=ctx.store)
    kept_s = frozen.serving.log_keep_days * DAY_S if frozen else math.inf
    return max(0, math.ceil((now - kept_s - what.since) / what.rules.window_s))


def _recorded(ctx: release.Context, what: DriftWatch) -> int:
    """The number of the newest row, also of one that does not count."""
    return max((row["seq"] for row in ctx.ledger.recorded(what.service, what.analysis)), default=0)


def _look(judge: Judge, *, seen_from: vantage.HostView) -> WindowReport:
    """The next window, and the host that reports it."""
    found = judge.look()
    told = {**found.verdict, "why": f"{found.verdict['why']}{seen_from.told()}"}
    return dataclasses.replace(found, verdict=plain.mended(told), host=seen_from.host)


def read(ctx: release.Context, what: DriftWatch, *, since: float, until: float, columns: Collection[str], most: int) -> drift_window.Window:
    """What users were answered by the watched bundle with *since* <= `at` < *until* (Unix seconds); see `window.read`."""
    folder = ctx.settings.inference(what.service)
    return drift_window.read(folder, bundle=what.bundle, since=since, until=until, columns=columns, time=what.rules.time, most=most)


def _tell(ctx: release.Context, what: DriftWatch, one: WindowReport, teller: once.Notifier, *, now: float) -> None:
    """Page when an alarm opens, becomes broken data, or ends, and note it in the audit trail; each once."""
    if not one.change:
        return
    key = f"drift-{short(what.bundle)}-{int(one.alarm or 0)}-{one.change}"
    severity = "info" if one.change == "closed" else "critical" if one.episode.broken else "warning"
    summary = _summary(what, one, ctx.ledger.state(what.service))
    teller.once(key, summary, severity=severity, body={"bundle": what.bundle, **one.to_json()}, now=now, note=NOTE)


def _summary(what: DriftWatch, one: WindowReport, state: State) -> str:
    name = f"{what.service}: {short(what.bundle)}"
    if one.change == "closed":
        return f"{name}: live traffic is as usual again"
    judged = "; a release is in progress, and its gates decide" if state.candidate else ""
    return f"{name}: {_kind(one)}: {one.verdict['why']}{judged}"


def _kind(one: WindowReport) -> str:
    if one.episode.broken:
        return "the data is broken"
    if LOSS in one.episode.columns and one.episode.alarm != one.episode.since:
        return "its answers are worse than they were on its reference"
    return f"live traffic has drifted, {one.episode.failing} windows in a row"

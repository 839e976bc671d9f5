"""The watch on live traffic: each completed window is evaluated once, in order, and the result is recorded.

Safe to be called by anybody at any time: a tick that was killed is done again from where the ledger stands, and of two at
once one wins. The windows of a bundle begin when it becomes stable. A window is looked at by a host that serves the bundle, for only
that has the log; of several each sees its own part, and it is written down whose word it is.

What does not belong here: statistics (`verdict`, `alarm`), what follows from an alarm (`decision`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from lastgood import release
from lastgood.bundle import manifest as bundles
from lastgood.bundle.manifest import short
from lastgood.core import transitions as rollout
from lastgood.drift import alarm, verdict
from lastgood.drift import bundle_reference as drift_reference
from lastgood.drift import window as windows
from lastgood.hosts import vantage
from lastgood.paging import once as telling
from lastgood.service import drift as drift_rules
from lastgood.service import frozen as frozen_service
from lastgood.service.drift import DAY_S
from lastgood.system import plain
from lastgood.system.failpoints import failpoint

NOTE = "drift"
PARTS = 22
"""A window holds at most one part in so many of the reference's rows, so that there are enough stretches that overlap by half."""
WRITING_S = 4.0
"""Seconds that writing a flush may take."""
AT_ONCE = 31
"""Windows that one tick looks at; the next goes on."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What is watched: the stable bundle, since when (Unix seconds), and by which rules."""

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
        """When window *number* begins, Unix seconds."""
        return self.since + number * self.rules.window_s


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """One window that was looked at. `seen` are all its rows, of which `verdict` may rest on a part.

    `alarm` is when the alarm began that is open after it, or that it closed (Unix seconds); None if there is none. `host` has looked,
    in its own log; empty for a window that an earlier release looked at.
    """

    number: int
    begin: float
    end: float
    seen: int
    verdict: Mapping[str, Any]
    episode: alarm.Episode
    change: alarm.Change
    alarm: float | None
    host: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "verdict": dict(self.verdict), "episode": self.episode.to_json()}


def watched(ctx: release.Context, service: str) -> Watched | None:
    """What is watched of *service* now; None if nothing serves, or its bundle does not ask for it."""
    state = ctx.ledger.state(service)
    if state.stable is None:
        return None
    frozen = frozen_service.read(ctx.ledger.bundle(state.stable), store=ctx.store)
    if frozen is None or frozen.drift is None:
        return None
    moved = release.last_move(ctx, state)
    # A window is not read before the log that is written most slowly has it.
    settle_s = max(frozen.drift.settle_s, frozen.serving.log_flush_s + WRITING_S)
    rules = frozen.drift.model_copy(update={"settle_s": settle_s})
    return Watched(service=service, bundle=state.stable, since=moved.at, revision=moved.number, rules=rules)


def looked(ctx: release.Context, what: Watched) -> Iterator[Looked]:
    """The windows that were looked at so far, oldest first."""
    for row in ctx.ledger.recorded(what.service, what.analysis):
        body = row["body"]
        if body["after"] == row["seq"] - 1:  # else somebody was faster with the same window
            yield Looked(**{**body["looked"], "episode": alarm.from_json(body["looked"]["episode"])}, host=body.get("host", ""))


def open_alarm(found: Sequence[Looked]) -> float | None:
    """When the alarm began (Unix seconds) that is open after the windows *found*, oldest first; None if there is none."""
    return found[-1].episode.alarm if found else None


def tick(ctx: release.Context, what: Watched, *, now: float, at_once: int = AT_ONCE) -> list[Looked]:
    """Look at the windows that are over by Unix time *now* and were not looked at yet; what was found. Tells a person what begins and ends.

    Raises NotFound or Damaged if the bundle brings no reference, and Conflict if other hosts serve it and this one does not; a window
    that cannot be read is broken data, and no error. A window without a row waits for as long as one lasts, where other hosts serve
    too: they may have had the traffic.
    """
    seen_from = vantage.of(ctx, what.service, what.bundle, now=now)
    before = list(looked(ctx, what))
    teller = telling.Teller(ctx, what.service)
    for one in before:
        _tell(ctx, what, one, teller, now=now)  # whoever found it may have died before it was told
    known = _recorded(ctx, what)
    number, episode = (before[-1].number + 1, before[-1].episode) if before else (0, alarm.Episode())
    number = max(number, _oldest(ctx, what, now=now))
    found: list[Looked] = []
    bundle = ctx.ledger.bundle(what.bundle)
    while len(found) < at_once and what.begin(number + 1) + what.rules.settle_s <= now:
        one = _look(ctx, what, bundle, number=number, episode=episode, seen_from=seen_from)
        if one.seen == 0 and seen_from.others and now < what.begin(number + 2) + what.rules.settle_s:
            break  # one of the others may have seen more
        failpoint("drift.before_record")
        seq = ctx.ledger.record(what.service, what.analysis, _written(one, after=known), now=now)
        if seq != known + 1:
            break  # another tick is at work; its windows are found by the next one
        failpoint("drift.after_record")
        _tell(ctx, what, one, teller, now=now)
        failpoint("drift.after_page")
        found.append(one)
        known, number, episode = seq, number + 1, one.episode
    return found


def _written(one: Looked, *, after: int) -> dict[str, Any]:
    """As it stands in the ledger; the host beside it, where an earlier release does not read it."""
    looked = one.to_json()
    return {"after": after, "host": looked.pop("host"), "looked": looked}


def _oldest(ctx: release.Context, what: Watched, *, now: float) -> int:
    """The first window whose rows the log still has."""
    frozen = frozen_service.read(ctx.ledger.bundle(what.bundle), store=ctx.store)
    kept_s = frozen.serving.log_keep_days * DAY_S if frozen else math.inf
    return max(0, math.ceil((now - kept_s - what.since) / what.rules.window_s))


def _recorded(ctx: release.Context, what: Watched) -> int:
    """The number of the newest row, also of one that does not count."""
    return max((row["seq"] for row in ctx.ledger.recorded(what.service, what.analysis)), default=0)


def _look(
    ctx: release.Context, what: Watched, bundle: bundles.Bundle, *, number: int, episode: alarm.Episode, seen_from: vantage.Vantage
) -> Looked:
    rules, since = what.rules, what.begin(number)
    reference = drift_reference.of_bundle(ctx.settings, bundle)
    # Of more rows than this the reference has too few stretches to know what is usual.
    most = max(rules.min_rows, min(rules.max_rows, reference.rows // PARTS))
    window = read(ctx, what, since=since, until=what.begin(number + 1), columns=reference.columns, most=most)
    span = windows.span_s(window.sample) if rules.time else rules.window_s
    enough = window.sample.rows >= rules.min_rows
    usual = drift_reference.usual(ctx.settings, bundle, reference, rows=window.sample.rows, span_s=span) if enough else None
    sample = drift_reference.with_features(ctx.settings, bundle, reference, window)
    said = verdict.of_window(sample, reference, usual, rules, trouble=window.trouble)
    after, change = alarm.follow(episode, said, begin=since, persistence=rules.persistence)
    begun = episode.alarm if after.alarm is None else after.alarm
    return Looked(
        number=number,
        begin=since,
        end=what.begin(number + 1),
        seen=window.rows,
        verdict=plain.mended({**said.to_json(), "why": f"{said.why}{seen_from.told()}"}),
        episode=after,
        change=change,
        alarm=begun,
        host=seen_from.host,
    )


def read(ctx: release.Context, what: Watched, *, since: float, until: float, columns: Collection[str], most: int) -> windows.Window:
    """What users were answered by the watched bundle with *since* <= `at` < *until* (Unix seconds); see `window.read`."""
    folder = ctx.settings.inference(what.service)
    return windows.read(folder, bundle=what.bundle, since=since, until=until, columns=columns, time=what.rules.time, most=most)


def _tell(ctx: release.Context, what: Watched, one: Looked, teller: telling.Teller, *, now: float) -> None:
    """Page an alarm that opens, becomes broken data, or ends, and write it into the audit trail; each once."""
    if not one.change:
        return
    key = f"drift-{short(what.bundle)}-{int(one.alarm or 0)}-{one.change}"
    severity = "info" if one.change == "closed" else "critical" if one.episode.broken else "warning"
    summary = _summary(what, one, ctx.ledger.state(what.service))
    teller.once(key, summary, severity=severity, body={"bundle": what.bundle, **one.to_json()}, now=now, note=NOTE)


def _summary(what: Watched, one: Looked, state: rollout.State) -> str:
    name = f"{what.service}: {short(what.bundle)}"
    if one.change == "closed":
        return f"{name}: live traffic is as usual again"
    judged = "; a release is in progress, and its gates decide" if state.candidate else ""
    kind = "the data is broken" if one.episode.broken else f"live traffic has drifted, {one.episode.failing} windows in a row"
    return f"{name}: {kind}: {one.verdict['why']}{judged}"

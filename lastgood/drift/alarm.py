"""The alarm state after a run of windows: an alarm opens when the same column fails in enough windows in a row, and closes as slowly.

Broken data alarms at once, since waiting would add nothing. So does a loss that has become worse: its test has already summed up
many windows. An inconclusive window changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from lastgood.drift.verdict import LOSS, WindowVerdict

Change = Literal["opened", "closed", "worse", ""]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FailingRun:
    """The alarm state of a service. `failing` windows in a row had `columns` in common, since `since` (Unix seconds).

    `alarm` is the beginning of the first window of the open alarm, or the end of the windows whose loss opened it; None if there is
    none. `broken` means that the data is broken. While an alarm is open, `passing` counts the windows in a row that pass.
    """

    failing: int = 0
    columns: tuple[str, ...] = ()
    since: float | None = None
    alarm: float | None = None
    broken: bool = False
    passing: int = 0

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "columns": list(self.columns)}


def from_json(value: Mapping[str, Any]) -> FailingRun:
    """The episode written by `to_json`."""
    return FailingRun(**{**value, "columns": tuple(value["columns"])})


def follow(
    before: FailingRun, verdict: WindowVerdict, *, begin: float, persistence: int, scored: float | None = None
) -> tuple[FailingRun, Change]:
    """The alarm state after the window that began at *begin*, and the change it makes. Rows up to *scored* were in the loss.

    `worse`: an open alarm of drift becomes one of broken data. An alarm opened by the loss begins after the rows in which it was
    found, because the decision about it has to rest on other rows.
    """
    if verdict.outcome == "inconclusive":
        return before, ""
    if verdict.outcome == "pass":
        return _passed(before, persistence=persistence)
    broken = verdict.outcome == "broken"
    common = tuple(name for name in before.columns if name in verdict.failed)
    goes_on = before.failing > 0 and bool(common)
    after = dataclasses.replace(
        before,
        failing=before.failing + 1 if goes_on else 1,
        columns=common if goes_on else verdict.failed,
        since=before.since if goes_on else begin,
        passing=0,
    )
    if before.alarm is not None:
        return dataclasses.replace(after, broken=before.broken or broken), "worse" if broken and not before.broken else ""
    if broken or after.failing >= persistence:
        return dataclasses.replace(after, alarm=begin if broken else after.since, broken=broken), "opened"
    if LOSS in verdict.failed:
        return dataclasses.replace(after, alarm=begin if scored is None else scored), "opened"
    return after, ""


def _passed(before: FailingRun, *, persistence: int) -> tuple[FailingRun, Change]:
    if before.alarm is None:
        return FailingRun(), ""
    passing = before.passing + 1
    if passing >= persistence:
        return FailingRun(), "closed"
    return dataclasses.replace(before, failing=0, columns=(), since=None, passing=passing), ""

"""What a row of windows comes to: an alarm opens when the same column fails often enough in a row, and closes as slowly.

Broken data alarms at once: there is nothing to wait for. So does a loss that has become worse: its test has summed up many windows
already. A window that says nothing changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from lastgood.drift.verdict import LOSS, WindowVerdict

Change = Literal["opened", "closed", "worse", ""]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FailingRun:
    """Where a service stands. `failing` windows in a row had `columns` in common, since `since` (Unix seconds).

    `alarm` is the beginning of the first window of the open alarm, or the end of the windows whose loss opened it; None if there is
    none. `broken` says that the data is. While it is open `passing` counts the windows in a row that pass.
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
    """The episode that `to_json` wrote."""
    return FailingRun(**{**value, "columns": tuple(value["columns"])})


def follow(
    before: FailingRun, verdict: WindowVerdict, *, begin: float, persistence: int, scored: float | None = None
) -> tuple[FailingRun, Change]:
    """Where the service stands after the window that began at *begin*, and what that changes. Rows up to *scored* were in the loss.

    `worse`: an open alarm of drift becomes one of broken data. An alarm that the loss opens begins after the rows that it was found
    in: what is decided about it rests on others.
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

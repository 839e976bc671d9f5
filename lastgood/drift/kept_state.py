"""The states in which drift alarms came to `keep`: what their columns looked like then is usual from there on, for this bundle.

A decision writes down a few hundred values of each column that had drifted, which stand for all of them; the log itself is
not there for as long as the bundle may serve.

What does not belong here: when an alarm comes to that (`decision`), how a window is held beside such a state (`verdict`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lastgood.drift import distances, verdict
from lastgood.drift.reference import Sample

if TYPE_CHECKING:
    from lastgood.drift.reference import Values

KIND = "drift-decision"
"""Kind of the evaluations that hold decisions."""
VALUES = 200
"""Values that stand for a column."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The state that was kept until Unix time `until`, over so many windows; `values` by column, None for missing."""

    until: float
    windows: int
    values: Mapping[str, Sequence[Any]]

    def columns(self, reference: Sample) -> dict[str, verdict.Kept]:
        """The columns, ready to be held beside a window; distances are in the reference's unit."""
        return {
            name: verdict.Kept(values=_known(values, reference.known(name)), windows=self.windows)
            for name, values in self.values.items()
            if name in reference.columns
        }


def _known(values: Sequence[Any], before: distances.ReferenceColumn) -> distances.ReferenceColumn:
    import numpy as np

    if before.numeric:
        return distances.ReferenceColumn(
            np.array([np.nan if value is None else value for value in values], dtype=np.float64), std=before.std
        )
    return distances.ReferenceColumn(np.array(values, dtype=object))


def state(sample: Sample, names: Iterable[str], *, until: float, windows: int) -> State:
    """What the columns *names* of *sample* look like."""
    return State(
        until=until, windows=max(1, windows), values={name: brief(sample.columns[name]) for name in names if name in sample.columns}
    )


def brief(values: Values) -> list[Any]:
    """At most VALUES values that stand for *values*: evenly spread over them in their order, missing ones last."""
    import numpy as np

    given = np.sort(distances.present(values))
    gone = [None] * (len(values) - len(given))
    ordered = [*given.tolist(), *gone]
    if len(ordered) <= VALUES:
        return ordered
    return [ordered[place] for place in np.linspace(0, len(ordered) - 1, VALUES).round().astype(int)]


def of_reports(reports: Iterable[Mapping[str, Any]], *, since: float) -> list[State]:
    """The states in decisions that came to `keep` on alarms from *since* on (Unix seconds), oldest first."""
    kept = [report for report in reports if report["outcome"] == "keep" and report["look"]["alarm"] >= since]
    return sorted((_state(report) for report in kept), key=lambda state: state.until)


def _state(report: Mapping[str, Any]) -> State:
    """An earlier release wrote no values."""
    found = report.get("kept") or {}
    return State(until=float(report["look"]["until"]), windows=int(found.get("windows", 1)), values=found.get("values", {}))

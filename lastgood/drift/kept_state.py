"""The states in which drift alarms were decided as `keep`: from then on, what their columns looked like is usual for this bundle.

A decision stores a few hundred values of each drifted column, which represent all of them; the log itself is not kept for as
long as the bundle may serve.

What does not belong here: when an alarm is decided that way (`decision`), how a window is compared with such a state (`verdict`).
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
"""Kind of the evaluations that contain decisions."""
VALUES = 200
"""Number of values that represent a column."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The state that was kept until Unix time `until`, over this many windows; `values` by column, None for missing."""

    until: float
    windows: int
    values: Mapping[str, Sequence[Any]]

    def columns(self, reference: Sample) -> dict[str, verdict.Kept]:
        """The columns, ready for comparison with a window; distances are in the reference's unit."""
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
    """Representative values of the columns *names* of *sample*."""
    return State(
        until=until, windows=max(1, windows), values={name: brief(sample.columns[name]) for name in names if name in sample.columns}
    )


def brief(values: Values) -> list[Any]:
    """At most VALUES values that represent *values*: evenly spread in sorted order, missing ones last."""
    import numpy as np

    given = np.sort(distances.present(values))
    gone = [None] * (len(values) - len(given))
    ordered = [*given.tolist(), *gone]
    if len(ordered) <= VALUES:
        return ordered
    return [ordered[place] for place in np.linspace(0, len(ordered) - 1, VALUES).round().astype(int)]


def of_reports(reports: Iterable[Mapping[str, Any]], *, since: float) -> list[State]:
    """The states in `keep` decisions on alarms from *since* on (Unix seconds), oldest first."""
    kept = [report for report in reports if report["outcome"] == "keep" and report["look"]["alarm"] >= since]
    return sorted((_state(report) for report in kept), key=lambda state: state.until)


def _state(report: Mapping[str, Any]) -> State:
    """An earlier release stored no values."""
    found = report.get("kept") or {}
    return State(until=float(report["look"]["until"]), windows=int(found.get("windows", 1)), values=found.get("values", {}))

"""What is usual: how far stretches of the reference are from the rest of it, for stretches as large as the window.

Rows of one day share their weather and their users, so two windows differ by more than independent rows would, without
any drift. The distances of the reference's own stretches know that. Thresholds hold for all columns together: the largest
distance of a stretch, in units of what is usual for its column, is what a window's largest is compared with (Westfall and
Young 1993).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lastgood.drift import distances
from lastgood.drift.reference import Sample

MIN_BLOCKS = 19
"""With fewer stretches no window could be told to be unusual at 5 %."""
MAX_BLOCKS = 120
FLAT = 1e-6
"""A column that never differs at all still needs a unit."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    """Mean and standard deviation of a column's distances over the stretches."""

    mean: float
    std: float

    def units(self, value: float) -> float:
        """How many standard deviations *value* lies above what is usual."""
        return (value - self.mean) / max(self.std, FLAT)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What is usual for each column, and the largest deviation of each stretch, rising."""

    usual: Mapping[str, Usual]
    largest: Sequence[float]

    def p(self, column: str, value: float) -> float:
        """Share of stretches, this window among them, that have a column as unusual as this one; for all columns together."""
        z = self.usual[column].units(value)
        return (1 + sum(one >= z for one in self.largest)) / (len(self.largest) + 1)

    def threshold(self, column: str, alpha: float) -> float:
        """The distance above which `p` is at most *alpha*; infinite if there are too few stretches to tell."""
        beyond = math.floor(alpha * (len(self.largest) + 1)) - 1
        if beyond < 0:
            return math.inf
        usual = self.usual[column]
        return usual.mean + max(usual.std, FLAT) * self.largest[len(self.largest) - 1 - beyond]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a cache."""
        return {"usual": {name: dataclasses.asdict(one) for name, one in self.usual.items()}, "largest": list(self.largest)}


def from_json(value: Mapping[str, Any]) -> Calibration:
    """The calibration that `to_json` wrote."""
    return Calibration(usual={name: Usual(**one) for name, one in value["usual"].items()}, largest=tuple(value["largest"]))


def calibrate(reference: Sample, *, rows: int, span_s: float) -> Calibration | None:
    """What is usual for windows of *rows* rows within *span_s* seconds; None if *reference* has too few such stretches."""
    import numpy as np

    found = list(_distances(reference, rows=rows, span_s=span_s))
    if len(found) < MIN_BLOCKS:
        return None
    usual = {}
    for name in reference.columns:
        values = [value for value in (block[name] for block in found) if value is not None]
        if len(values) == len(found):  # a column that is missing for whole stretches has no usual distance
            usual[name] = Usual(mean=float(np.mean(values)), std=float(np.std(values, ddof=1)))
    if not usual:
        return None
    largest = sorted(max(usual[name].units(block[name] or 0.0) for name in usual) for block in found)
    return Calibration(usual=usual, largest=tuple(largest))


def _distances(reference: Sample, *, rows: int, span_s: float) -> Iterator[dict[str, float | None]]:
    """The distances of each stretch from all that lies outside it."""
    import numpy as np

    for inside, kept in blocks(reference, rows=rows, span_s=span_s):
        outside = np.ones(reference.rows, dtype=bool)
        outside[inside] = False
        yield {name: distances.value(values[outside], values[kept]) for name, values in reference.columns.items()}


def blocks(reference: Sample, *, rows: int, span_s: float) -> list[tuple[slice, Any]]:
    """Stretches of *span_s* seconds that overlap by half, and *rows* numbers of rows spread over each; at most MAX_BLOCKS.

    Where the reference has no such stretches with half the rows, those of *rows* rows in a row, however long they last.
    """
    found = _by_time(reference, rows=rows, span_s=span_s)
    if len(found) < MIN_BLOCKS:
        found = _by_rows(reference, rows=rows)
    step = max(1, math.ceil(len(found) / MAX_BLOCKS))
    return found[::step]


def _by_time(reference: Sample, *, rows: int, span_s: float) -> list[tuple[slice, Any]]:
    import numpy as np

    found = []
    last = reference.at[-1] - span_s
    starts = np.arange(reference.at[0], last + 1e-9, span_s / 2) if last >= reference.at[0] else np.array([])
    edges = np.searchsorted(reference.at, np.stack([starts, starts + span_s]))
    for first, end in edges.T:
        count = int(end - first)
        if count * 2 >= rows and count * 4 <= reference.rows:
            kept = np.unique(np.linspace(first, end - 1, min(rows, count)).astype(int))
            found.append((slice(int(first), int(end)), kept))
    return found


def _by_rows(reference: Sample, *, rows: int) -> list[tuple[slice, Any]]:
    if rows * 4 > reference.rows:
        return []
    starts = range(0, reference.rows - rows + 1, max(1, rows // 2))
    return [(slice(start, start + rows), slice(start, start + rows)) for start in starts]

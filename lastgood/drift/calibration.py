"""What is usual: how far stretches of the reference are from the rest of it, for stretches as large as the window.

Rows of one day share their weather and their users, so two windows differ by more than independent rows would, without any
drift. The distances between the reference's own stretches include this. Thresholds hold for all columns together: a window's
largest distance is compared with the largest distance of each stretch, in units of what is usual for its column (Westfall and
Young 1993). Stretches overlap by half, so only half as many are independent.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lastgood.drift import distances
from lastgood.drift.reference import Sample

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lastgood.drift.reference import Values

MIN_BLOCKS = 37
"""Nineteen that do not overlap, and those between them: with fewer, no window could be called unusual at 5 %."""
MAX_BLOCKS = 120
FLAT = 1e-6
"""Smallest unit, for a column that never differs at all."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    """Mean and standard deviation of a column's distances over the stretches."""

    mean: float
    std: float

    def units(self, value: float) -> float:
        """How many standard deviations *value* lies above the mean."""
        return (value - self.mean) / max(self.std, FLAT)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Odd:
    """The largest shares within one stretch of missing values, and of values that occur nowhere else."""

    missing: float = 0.0
    strange: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What is usual for each column, and the largest deviation of each stretch, in ascending order.

    A column that is missing for whole stretches has no usual distance; `odd` covers every column.
    """

    usual: Mapping[str, Usual]
    odd: Mapping[str, Odd]
    largest: Sequence[float]

    def p(self, column: str, value: float) -> float:
        """Share of stretches, counting this window as one, with a column as unusual as this one; for all columns together."""
        z = self.usual[column].units(value)
        return (1 + sum(one >= z for one in self.largest)) / (len(self.largest) + 1)

    def threshold(self, column: str, alpha: float) -> float:
        """The distance above which `p` is at most *alpha*; infinite if there are too few stretches to determine it."""
        beyond = math.floor(alpha * (len(self.largest) + 1)) - 1
        if beyond < 0:
            return math.inf
        usual = self.usual[column]
        return usual.mean + max(usual.std, FLAT) * self.largest[len(self.largest) - 1 - beyond]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a cache."""
        by_column = {part: {name: dataclasses.asdict(one) for name, one in getattr(self, part).items()} for part in ("usual", "odd")}
        return {**by_column, "largest": list(self.largest)}


def from_json(value: Mapping[str, Any]) -> Calibration:
    """The calibration written by `to_json`."""
    usual = {name: Usual(**one) for name, one in value["usual"].items()}
    odd = {name: Odd(**one) for name, one in value["odd"].items()}
    return Calibration(usual=usual, odd=odd, largest=tuple(value["largest"]))


def calibrate(reference: Sample, *, rows: int, span_s: float) -> Calibration | None:
    """What is usual for windows of *rows* rows within *span_s* seconds; None if *reference* has too few such stretches."""
    import numpy as np

    found = list(_stretches(reference, rows=rows, span_s=span_s))
    if len(found) < MIN_BLOCKS:
        return None
    values = {name: np.array([block[name] for block in found], dtype=np.float64) for name in reference.columns}
    whole = {name: column[:, 0] for name, column in values.items() if np.isfinite(column[:, 0]).all()}
    if not whole:
        return None
    usual = {name: Usual(mean=float(column.mean()), std=float(column.std(ddof=1))) for name, column in whole.items()}
    odd = {name: Odd(missing=float(column[:, 1].max()), strange=float(column[:, 2].max())) for name, column in values.items()}
    largest = sorted(np.max([_units(column) for column in whole.values()], axis=0).tolist())
    return Calibration(usual=usual, odd=odd, largest=tuple(largest))


def _units(column: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Each stretch in units of what is usual for the others, like a window.

    Its own distance, or that of a neighbour that shares rows, would mask it.
    """
    import numpy as np

    found = np.empty_like(column)
    for place, value in enumerate(column):
        others = np.delete(column, slice(max(0, place - 1), place + 2))
        found[place] = Usual(mean=float(others.mean()), std=float(others.std(ddof=1))).units(float(value))
    return found


def _stretches(reference: Sample, *, rows: int, span_s: float) -> Iterator[dict[str, tuple[float | None, float, float]]]:
    """Per stretch and column: the distance from all that lies outside it, the shares of missing values and of values found nowhere else."""
    for inside, kept in blocks(reference, rows=rows, span_s=span_s):
        yield {name: _beside(reference.known(name).without(inside), values[kept]) for name, values in reference.columns.items()}


def _beside(others: distances.ReferenceColumn, mine: Values) -> tuple[float | None, float, float]:
    return distances.value(others, mine), distances.missing(mine), distances.strange(others, mine)


def blocks(reference: Sample, *, rows: int, span_s: float) -> list[tuple[slice, Any]]:
    """Stretches of *span_s* seconds that overlap by half, with the numbers of *rows* rows spread over each; at most MAX_BLOCKS.

    Where no such stretch of the reference has half the rows, stretches of *rows* consecutive rows instead, however long they last.
    """
    found = _by_time(reference, rows=rows, span_s=span_s)
    if len(found) < MIN_BLOCKS:
        found = _by_rows(reference, rows=rows)
    step = max(1, math.ceil(len(found) / MAX_BLOCKS))
    return found[::step]


def _by_time(reference: Sample, *, rows: int, span_s: float) -> list[tuple[slice, Any]]:
    """Stretches that begin at every half of *span_s* where the reference has rows: time and memory depend on its rows, not its years."""
    import numpy as np

    at = reference.at
    half, last = (at[0] + span_s / 2) - at[0], at[-1] - span_s
    if not half > 0 or not last >= at[0] or not np.isfinite(last):
        return []
    # A row lies in the stretch that begins at the half before it, or in the one before that; the others are empty.
    numbers = np.floor((at - at[0]) / half)
    numbers = np.unique(np.concatenate([numbers - 2, numbers - 1, numbers, numbers + 1]))
    starts = at[0] + numbers[(numbers >= 0) & (numbers < math.ceil((last + 1e-9 - at[0]) / (span_s / 2)))] * half
    edges = np.searchsorted(at, np.stack([starts, starts + span_s]))
    counts = edges[1] - edges[0]
    found = edges[:, (counts > 0) & (counts * 2 >= rows) & (counts * 4 <= reference.rows)].T
    return [(slice(first, end), _spread(first, end, rows=rows)) for first, end in found.tolist()]


def _spread(first: int, end: int, *, rows: int) -> Any:
    import numpy as np

    return np.unique(np.linspace(first, end - 1, min(rows, end - first)).astype(int))


def _by_rows(reference: Sample, *, rows: int) -> list[tuple[slice, Any]]:
    if rows * 4 > reference.rows:
        return []
    starts = range(0, reference.rows - rows + 1, max(1, rows // 2))
    return [(slice(start, start + rows), slice(start, start + rows)) for start in starts]

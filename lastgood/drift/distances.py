"""The distance between two samples of one column: the numbers that Evidently gives for the same samples, without its frames.

    numbers       first Wasserstein distance in standard deviations of the reference; Kolmogorov-Smirnov test
    categories    Jensen-Shannon distance of the shares (natural logarithm); chi-square test of the two samples

Evidently's own chi-square treats the reference as the exact truth, which raises far too many alarms with a small one; ours
compares two samples. Missing values are left out here; `verdict` judges them separately.

A reference is compared with many windows and stretches: `ReferenceColumn` sorts, sums and counts it once. Both distances between
numbers are computed by looking the window's values up in it, where SciPy sorts both again each time; the tests compare with
SciPy's values, and the p-value of small samples, which is exact in SciPy, is left to SciPy.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING

from lastgood.drift import reference as drift_reference_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

SMALLEST_STD = 0.001
"""As in Evidently: a constant column would have no unit."""
EXACT = 10_000
"""Up to this many values on either side SciPy's p-value is exact; above, it is that of the limiting distribution."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """`value` in the unit of `measure`; `p` is that of the matching test, for independent rows, which rows of a log are not."""

    measure: str
    value: float
    p: float


class ReferenceColumn:
    """A column to compare others with, sorted or counted once. Distances are in units of *std*, by default its own."""

    def __init__(self, values: drift_reference_file.Values, *, std: float | None = None) -> None:
        self.values = values
        self._std = std
        self.numeric = drift_reference_file.is_numeric(values)
        self.rows = len(values)
        self._order: npt.NDArray[np.intp] | None = None
        self._sorted: Floats | None = None
        self._sums: Floats | None = None
        self._counts: collections.Counter[str] | None = None

    @property
    def sorted(self) -> Floats:
        """The numbers that are not missing, in ascending order."""
        if self._sorted is None:
            order = self._in_order()
            self._sorted = self.values[order][: len(order) - self._missing()]
        return self._sorted

    @property
    def counts(self) -> collections.Counter[str]:
        """How often each category occurs."""
        if self._counts is None:
            self._counts = collections.Counter(present(self.values))
        return self._counts

    @property
    def std(self) -> float:
        """The unit of distances between numbers."""
        if self._std is None:
            self._std = max(float(self.sorted.std()), SMALLEST_STD)
        return self._std

    @property
    def middle(self) -> float:
        """A central value of the numbers; sums are taken around it, so that large values lose no digits."""
        return float(self.sorted[len(self.sorted) // 2])

    def area(self, at: Floats) -> Floats:
        """The area under the distribution function up to each of *at*, which are given as distances from `middle`."""
        import numpy as np

        if self._sums is None:
            self._sums = np.concatenate([[0.0], np.cumsum(self.sorted - self.middle)])
        count = np.searchsorted(self.sorted - self.middle, at, "right")
        found: Floats = (count * at - self._sums[count]) / len(self.sorted)
        return found

    @property
    def missing(self) -> float:
        """Share of the values that are missing."""
        there = len(self.sorted) if self.numeric else self.counts.total()
        return 1.0 - there / self.rows if self.rows else 0.0

    @property
    def empty(self) -> bool:
        """Whether all values are missing."""
        return not len(self.sorted) if self.numeric else not self.counts

    def without(self, inside: slice) -> ReferenceColumn:
        """The column without the rows *inside*; needs no sorting."""
        import numpy as np

        outside = np.ones(self.rows, dtype=bool)
        outside[inside] = False
        found = ReferenceColumn(self.values[outside])
        if self.numeric:
            order = self._in_order()
            kept = self.values[order[outside[order]]]
            found._sorted = kept[np.isfinite(kept)]
        else:
            found._counts = self.counts - collections.Counter(present(self.values[inside]))
        return found

    def _in_order(self) -> npt.NDArray[np.intp]:
        import numpy as np

        if self._order is None:
            self._order = np.argsort(np.where(np.isfinite(self.values), self.values, np.inf), kind="stable")
        return self._order

    def _missing(self) -> int:
        import numpy as np

        return int(np.count_nonzero(~np.isfinite(self.values)))


def prepare_column(values: drift_reference_file.Values | ReferenceColumn) -> ReferenceColumn:
    """*values*, prepared for comparison with others."""
    return values if isinstance(values, ReferenceColumn) else ReferenceColumn(values)


def between(reference: drift_reference_file.Values | ReferenceColumn, current: drift_reference_file.Values) -> Distance | None:
    """The distance of *current* from *reference*; None if one of them has no values, or their kinds differ."""
    old, new = prepare_column(reference), prepare_column(current)
    if old.numeric != new.numeric or old.empty or new.empty:
        return None
    return _numbers(old, new.sorted) if old.numeric else _categories(old.counts, new.counts)


def value(reference: drift_reference_file.Values | ReferenceColumn, current: drift_reference_file.Values) -> float | None:
    """The same without the test, for calibration."""
    old, new = prepare_column(reference), prepare_column(current)
    if old.numeric != new.numeric or old.empty or new.empty:
        return None
    return _walked(old, new.sorted)[0] / old.std if old.numeric else jensen_shannon(counted(old.counts, new.counts))


def present(values: drift_reference_file.Values) -> drift_reference_file.Values:
    """The values that are not missing."""
    import numpy as np

    found: drift_reference_file.Values = values[np.isfinite(values)] if drift_reference_file.is_numeric(values) else values[values != None]  # noqa: E711
    return found


def missing(values: drift_reference_file.Values) -> float:
    """Share of the values that are missing; 0 of none."""
    return 1.0 - len(present(values)) / len(values) if len(values) else 0.0


def strange(reference: drift_reference_file.Values | ReferenceColumn, new: drift_reference_file.Values) -> float:
    """Share of all rows whose value lies outside the reference's range, or is a category that it does not have."""
    import numpy as np

    old, given = prepare_column(reference), present(new)
    if old.numeric != drift_reference_file.is_numeric(new) or old.empty or not len(given):
        return 0.0
    if old.numeric:
        outside = int(np.sum((given < old.sorted[0]) | (given > old.sorted[-1])))
    else:
        outside = sum(one not in old.counts for one in given)
    return outside / len(new)


def _numbers(known_values: ReferenceColumn, new: Floats) -> Distance:
    from scipy import stats

    old = known_values.sorted
    distance, largest = _walked(known_values, new)
    if max(len(old), len(new)) <= EXACT:
        p = float(stats.ks_2samp(old, new).pvalue)
    else:
        p = float(stats.kstwo.sf(largest, max(1, round(len(old) * len(new) / (len(old) + len(new))))))
    return Distance(measure="wasserstein", value=distance / known_values.std, p=min(max(p, 0.0), 1.0))


def _walked(old: ReferenceColumn, new: Floats) -> tuple[float, float]:
    """Wasserstein distance, and the largest distance of the distribution functions; *new* is sorted. Cost: *new* times the log of *old*."""
    import numpy as np

    n, m, middle = len(old.sorted), len(new), old.middle
    places = np.arange(1, m + 1)
    below, upto = np.searchsorted(old.sorted, new, "left"), np.searchsorted(old.sorted, new, "right")
    first, last = np.searchsorted(new, new, "left"), np.searchsorted(new, new, "right")
    largest = float(max(np.abs(upto / n - last / m).max(), np.abs(below / n - first / m).max()))
    # Between two values of *new* its function is constant while the other rises: they cross at most once.
    crossing = old.sorted[np.minimum(np.ceil(places[:-1] * n / m - 1e-9).astype(int), n) - 1]
    crossing = np.clip(crossing, new[:-1], new[1:]) - middle
    at, level = new - middle, places[:-1] / m
    risen, crossed = old.area(at), old.area(crossing)
    between = level * (2 * crossing - at[:-1] - at[1:]) - 2 * crossed + risen[:-1] + risen[1:]
    end = np.maximum(old.sorted[-1:] - middle, at[-1:])
    beyond = end - at[-1:] - old.area(end) + risen[-1:]
    return float(risen[0] + between.sum() + beyond[0]), largest


def _categories(old: collections.Counter[str], new: collections.Counter[str]) -> Distance:
    from scipy import stats

    counts = counted(old, new)
    p = float(stats.chi2_contingency(counts, correction=False).pvalue) if counts.shape[1] > 1 else 1.0
    return Distance(measure="jensenshannon", value=jensen_shannon(counts), p=p)


def counted(old: collections.Counter[str], new: collections.Counter[str]) -> Floats:
    """Counts of each category that occurs in either, (2, categories)."""
    import numpy as np

    names = dict.fromkeys([*old, *new])
    return np.array([[one[name] for name in names] for one in (old, new)], dtype=np.float64)


def jensen_shannon(counts: Floats) -> float:
    """Distance between the shares in two rows of counts, 0 to 0.83."""
    from scipy.spatial import distance

    return float(distance.jensenshannon(*counts))

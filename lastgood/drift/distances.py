"""How far two samples of one column are apart: the numbers that Evidently gives for the same samples, without its frames.

    numbers       first Wasserstein distance in standard deviations of the reference; Kolmogorov-Smirnov test
    categories    Jensen-Shannon distance of the shares (natural logarithm); chi-square test of the two samples

Evidently's own chi-square takes the reference for the exact truth, which raises far too many alarms with a small one; ours
compares two samples. Missing values are left out here; `verdict` looks at them by themselves.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING

from lastgood.drift import reference as references

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SMALLEST_STD = 0.001
"""As in Evidently: a constant column would have no unit."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """`value` in the unit of `measure`; `p` is that of the matching test, for independent rows, which rows of a log are not."""

    measure: str
    value: float
    p: float


def between(reference: references.Values, current: references.Values) -> Distance | None:
    """The distance of *current* from *reference*; None if one of them has no value, or they hold different things."""
    if references.is_numeric(reference) != references.is_numeric(current):
        return None
    old, new = present(reference), present(current)
    if not len(old) or not len(new):
        return None
    return _numbers(old, new) if references.is_numeric(reference) else _categories(old, new)


def value(reference: references.Values, current: references.Values) -> float | None:
    """The same without the test, for calibration."""
    old, new = present(reference), present(current)
    if references.is_numeric(reference) != references.is_numeric(current) or not len(old) or not len(new):
        return None
    return wasserstein(old, new) if references.is_numeric(reference) else jensen_shannon(counted(old, new))


def present(values: references.Values) -> references.Values:
    """The values that are not missing."""
    import numpy as np

    found: references.Values = values[np.isfinite(values)] if references.is_numeric(values) else values[values != None]  # noqa: E711
    return found


def missing(values: references.Values) -> float:
    """Share of the values that are missing; 0 of none."""
    return 1.0 - len(present(values)) / len(values) if len(values) else 0.0


def strange(old: references.Values, new: references.Values) -> float:
    """Share of all rows whose value lies outside the reference's range, or is a category that it does not have."""
    import numpy as np

    known, given = present(old), present(new)
    if not len(known) or not len(given) or references.is_numeric(old) != references.is_numeric(new):
        return 0.0
    if references.is_numeric(old):
        outside = int(np.sum((given < known.min()) | (given > known.max())))
    else:
        seen = set(known)
        outside = sum(one not in seen for one in given)
    return outside / len(new)


def _numbers(old: references.Values, new: references.Values) -> Distance:
    from scipy import stats

    return Distance(measure="wasserstein", value=wasserstein(old, new), p=float(stats.ks_2samp(old, new).pvalue))


def wasserstein(old: npt.NDArray[np.float64], new: npt.NDArray[np.float64]) -> float:
    """In standard deviations of *old*."""
    from scipy import stats

    return float(stats.wasserstein_distance(old, new)) / max(float(old.std()), SMALLEST_STD)


def _categories(old: references.Values, new: references.Values) -> Distance:
    from scipy import stats

    counts = counted(old, new)
    p = float(stats.chi2_contingency(counts, correction=False).pvalue) if counts.shape[1] > 1 else 1.0
    return Distance(measure="jensenshannon", value=jensen_shannon(counts), p=p)


def counted(old: references.Values, new: references.Values) -> npt.NDArray[np.float64]:
    """How often each category that occurs stands in either, (2, categories)."""
    import numpy as np

    both = collections.Counter(old), collections.Counter(new)
    names = dict.fromkeys([*both[0], *both[1]])
    return np.array([[one[name] for name in names] for one in both], dtype=np.float64)


def jensen_shannon(counts: npt.NDArray[np.float64]) -> float:
    """Distance of the shares in two rows of counts, 0 to 0.83."""
    from scipy.spatial import distance

    return float(distance.jensenshannon(*counts))

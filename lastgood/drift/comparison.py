"""Whether one bundle is worse than another on the same labelled rows: a mean difference with an error by clusters.

Rows of one day share that day's events; counting them as independent makes the error several times too small. The comparison is
made at set times only, each with its part of alpha, because testing every day until something shows finds something (Armitage 1969).
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

CLIP = 1e-15


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Mean score of both, their mean difference (first minus second; above 0 the first is worse), and its one-sided bounds.

    The difference exceeds `low` with confidence 1 - alpha, and stays below `high` likewise; None with fewer than two clusters.
    """

    rows: int
    clusters: int
    first: float
    second: float
    difference: float
    error: float | None
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def losses(score: str, forecast: Floats, label: Floats) -> Floats:
    """The score of each row; lower is better, so accuracy is inverted."""
    import numpy as np

    if score in ("brier", "squared_error"):
        return (forecast - label) ** 2
    if score == "absolute_error":
        found: Floats = np.abs(forecast - label)
        return found
    if score == "accuracy":
        wrong: Floats = ((forecast >= 0.5) != (label >= 0.5)).astype(float)
        return wrong
    if score == "log_loss":
        given = np.clip(forecast, CLIP, 1 - CLIP)
        loss: Floats = -(label * np.log(given) + (1 - label) * np.log(1 - given))
        return loss
    raise ValueError(f"unknown score {score!r}")


def paired(first: Floats, second: Floats, clusters: npt.NDArray[Any], *, alpha: float) -> Comparison:
    """Compare the losses of two bundles on the same rows; *clusters* names the cluster of each row.

    The standard error is that of a mean with clustered residuals times G/(G-1) for G clusters; bounds use Student's t with G-1 degrees.
    """
    import numpy as np
    from scipy import stats

    difference = first - second
    mean = float(difference.mean())
    _, number = np.unique(clusters, return_inverse=True)
    count = int(number.max()) + 1
    found = Comparison(
        rows=len(first),
        clusters=count,
        first=float(first.mean()),
        second=float(second.mean()),
        difference=mean,
        error=None,
        low=None,
        high=None,
    )
    if count < 2:
        return found
    sums = np.bincount(number, weights=difference - mean)
    error = math.sqrt(count / (count - 1) * float(np.sum(sums**2))) / len(first)
    reach = float(stats.t.ppf(1 - alpha, count - 1)) * error
    return dataclasses.replace(found, error=error, low=mean - reach, high=mean + reach)

"""How good a model is on flights after its training window, and whether it is better than another on the same flights.

Brier score and log loss follow the base rate of the month, so two models are compared on the same rows, in pairs.
Flights of one day share weather and knock-on delays: the standard error is clustered by day. Counting rows as
independent makes it five to eight times too small here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lastgood import errors

from . import features
from . import model as models


def evaluate(model: Path, data: Path, *, against: Path | None = None) -> dict[str, Any]:
    """The report on the model folder *model* over the Parquet file *data*; plain JSON values.

    With *against* (another model folder) it also holds that model's metrics and the paired comparison, in which a
    negative difference of Brier scores means that *model* is better. If one of the two was trained on flights of this
    window, the comparison is unfair: it says so in `in_sample` and leaves `better` at None. If *against* cannot read
    these features, `against` stays None and `not_compared` says why.
    """
    frame = pd.read_parquet(data)
    late = frame["late"].to_numpy(dtype=bool)
    subject = models.load(model)
    forecast = subject.probability(features.columns_of(frame))
    report: dict[str, Any] = {
        "window": features.window(frame),
        "metrics": metrics(late, forecast, base_rate=subject.info["base_rate"]),
        "against": None,
    }
    if against is not None:
        try:
            other = models.load(against)
        except errors.Damaged as error:
            # A stable model of other features cannot be asked about these rows: not compared, which is not "as good".
            return {**report, "not_compared": str(error)}
        reference = other.probability(features.columns_of(frame))
        compared = paired(late, forecast, reference, days=local_days(frame))
        in_sample = any(trained.info["window"]["last"] >= report["window"]["first"] for trained in (subject, other))
        report["against"] = {
            "metrics": metrics(late, reference, base_rate=other.info["base_rate"]),
            "paired": {**compared, "in_sample": in_sample, "better": None if in_sample else compared["better"]},
        }
    return report


def metrics(late: np.ndarray, forecast: np.ndarray, *, base_rate: float) -> dict[str, float]:
    """Scores of *forecast* (probabilities) on *late* (bool). `base_rate_brier` is that of always saying *base_rate*.

    `auc` is left out when the labels are all alike, since it has no value then.
    """
    from sklearn import metrics as scores

    found = {
        "n": float(len(late)),
        "late_rate": float(late.mean()),
        "brier": float(np.mean((forecast - late) ** 2)),
        "base_rate_brier": float(np.mean((base_rate - late) ** 2)),
        "log_loss": float(scores.log_loss(late, forecast, labels=[False, True])),
    }
    if late.any() and not late.all():
        found["auc"] = float(scores.roc_auc_score(late, forecast))
    return found


def paired(late: np.ndarray, forecast: np.ndarray, reference: np.ndarray, *, days: np.ndarray) -> dict[str, Any]:
    """Mean difference of squared errors, *forecast* minus *reference*, row by row, with an error clustered by day.

    The standard error is that of a mean with clustered residuals, times G/(G-1) for G days; the 95 % interval uses
    Student's t with G-1 degrees of freedom. `better` is True or False if the interval excludes zero, else None.
    With fewer than two days there is no standard error, and the comparison says None.
    """
    from scipy import stats

    loss = (forecast - late) ** 2 - (reference - late) ** 2
    mean = float(loss.mean())
    _, cluster = np.unique(days, return_inverse=True)
    count = int(cluster.max()) + 1
    found: dict[str, Any] = {"metric": "brier", "difference": mean, "rows": len(loss), "days": count}
    if count < 2:
        return {**found, "standard_error": None, "interval_95": None, "better": None}
    sums = np.bincount(cluster, weights=loss - mean)
    error = float(np.sqrt(count / (count - 1) * np.sum(sums**2)) / len(loss))
    reach = float(stats.t.ppf(0.975, count - 1)) * error
    low, high = mean - reach, mean + reach
    return {**found, "standard_error": error, "interval_95": [low, high], "better": True if high < 0 else False if low > 0 else None}


def local_days(frame: pd.DataFrame) -> np.ndarray:
    """The date of departure on the airport's clock, one per row: the cluster of a row."""
    return np.asarray(frame["scheduled_departure"].dt.tz_convert(str(features.CLOCKS["local"])).dt.date)

"""Whether one bundle is worse than another on the same rows: clustered errors, scores, and what a look may claim."""

from __future__ import annotations

import numpy as np
import pytest

from lastgood.drift import comparison
from services.flights import evaluate


def rows(
    *, days: int = 20, per_day: int = 50, worse: float = 0.0, spread: float = 0.05, seed: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses of two bundles and the day of each row; the first is worse by *worse*, and all rows of a day share a difference."""
    draw = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), per_day)
    first = draw.random(days * per_day) + worse + draw.normal(0, spread, days)[day]
    return first, draw.random(days * per_day), day


def test_it_agrees_with_the_evaluation_of_the_flights() -> None:
    """The same mean, error and interval as the service's own code, which was written before it."""
    draw = np.random.default_rng(2)
    late, first, second = draw.random(600) < 0.3, draw.random(600), draw.random(600)
    day = np.repeat(np.arange(12), 50)
    theirs = evaluate.paired(late, first, second, days=day)
    label = late.astype(float)
    ours = comparison.paired(comparison.losses("brier", first, label), comparison.losses("brier", second, label), day, alpha=0.025)
    assert ours.difference == pytest.approx(theirs["difference"])
    assert ours.error == pytest.approx(theirs["standard_error"])
    assert [ours.low, ours.high] == pytest.approx(theirs["interval_95"])
    assert (ours.rows, ours.clusters) == (theirs["rows"], theirs["days"])


def test_five_looks_seldom_blame_a_bundle_that_is_no_worse() -> None:
    """With a fifth of 5 % for each look at days that differ; a bound for independent rows blames it far more often."""
    blamed, naive = 0, 0
    for seed in range(300):
        first, second, day = rows(days=28, seed=seed)
        looks = [day < until for until in (3, 5, 7, 14, 28)]
        found = [comparison.paired(first[look], second[look], day[look], alpha=0.01) for look in looks]
        blamed += any(one.low is not None and one.low > 0 for one in found)
        alone = [comparison.paired(first[look], second[look], np.arange(look.sum()), alpha=0.01) for look in looks]
        naive += any(one.low is not None and one.low > 0 for one in alone)
    assert blamed <= 24, "8 % of 300, for a promise of 5 %"
    assert naive > 2 * blamed


def test_a_worse_bundle_is_found() -> None:
    """Worse by 0.1 of a loss whose days differ by 0.05."""
    first, second, day = rows(worse=0.1)
    found = comparison.paired(first, second, day, alpha=0.01)
    assert found.low is not None
    assert found.low > 0.02
    assert found.difference == pytest.approx(found.first - found.second)


def test_one_day_cannot_tell() -> None:
    """There is a difference, and no error of it."""
    first, second, day = rows(days=1)
    found = comparison.paired(first, second, day, alpha=0.05)
    assert (found.error, found.low, found.high, found.clusters) == (None, None, None, 1)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("brier", [0.04, 0.64]),
        ("squared_error", [0.04, 0.64]),
        ("absolute_error", [0.2, 0.8]),
        ("accuracy", [0.0, 1.0]),
        ("log_loss", [-np.log(0.8), -np.log(0.2)]),
    ],
)
def test_scores_are_losses(score: str, expected: list[float]) -> None:
    """Lower is better for all of them; a certain error is expensive and not infinite."""
    forecast, label = np.array([0.8, 0.8]), np.array([1.0, 0.0])
    assert comparison.losses(score, forecast, label) == pytest.approx(expected)
    assert np.isfinite(comparison.losses(score, np.array([1.0]), np.array([0.0]))).all()


def test_an_unknown_score_is_an_error() -> None:
    """It was checked when service.yaml was read."""
    with pytest.raises(ValueError, match="'r2'"):
        comparison.losses("r2", np.zeros(1), np.zeros(1))

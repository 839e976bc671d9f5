"""Distances: the numbers that Evidently gives for the same samples."""

from __future__ import annotations

import numpy as np
import pytest

from lastgood.drift import distances

DRAW = np.random.default_rng(5)
NUMBERS = {
    "alike": (DRAW.normal(size=900), DRAW.normal(size=300)),
    "shifted": (DRAW.normal(size=900), DRAW.normal(0.4, size=300)),
    "few values": (DRAW.integers(0, 4, 500).astype(float), DRAW.integers(0, 4, 400).astype(float)),
    "constant": (np.full(50, 3.0), np.full(60, 3.5)),
}
CATEGORIES = {
    "alike": (DRAW.choice(list("abcd"), size=800).astype(object), DRAW.choice(list("abcd"), size=200).astype(object)),
    "other shares": (
        DRAW.choice(list("abcd"), size=800).astype(object),
        DRAW.choice(list("abcd"), p=[0.7, 0.1, 0.1, 0.1], size=200).astype(object),
    ),
    "a new one": (DRAW.choice(list("ab"), size=800).astype(object), DRAW.choice(list("abz"), size=200).astype(object)),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_are_as_far_apart_as_in_evidently(case: str) -> None:
    """Wasserstein distance in standard deviations, and the p-value of Kolmogorov and Smirnov."""
    import pandas as pd
    from evidently.legacy.calculations.stattests import ks_stat_test, wasserstein_stat_test
    from evidently.legacy.core import ColumnType

    old, new = NUMBERS[case]
    found = distances.between(old, new)
    assert found is not None
    assert found.measure == "wasserstein"
    theirs = [test(pd.Series(old), pd.Series(new), ColumnType.Numerical, 0.1).drift_score for test in (wasserstein_stat_test, ks_stat_test)]
    assert [found.value, found.p] == pytest.approx(theirs, abs=1e-12)
    assert distances.value(old, new) == found.value


@pytest.mark.parametrize("case", CATEGORIES)
def test_categories_are_as_far_apart_as_in_evidently(case: str) -> None:
    """Jensen-Shannon distance; the test beside it compares two samples, where Evidently's takes one for the truth."""
    import pandas as pd
    from evidently.legacy.calculations.stattests import jensenshannon_stat_test
    from evidently.legacy.core import ColumnType
    from scipy import stats

    old, new = CATEGORIES[case]
    found = distances.between(old, new)
    assert found is not None
    assert found.measure == "jensenshannon"
    theirs = jensenshannon_stat_test(pd.Series(old), pd.Series(new), ColumnType.Categorical, 0.1)
    assert found.value == pytest.approx(theirs.drift_score, abs=1e-12)
    assert distances.value(old, new) == found.value
    table = pd.crosstab(np.concatenate([old, new]), np.repeat([0, 1], [len(old), len(new)]))
    assert found.p == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue)


@pytest.mark.parametrize("rows", [200, 30_000])
def test_one_walk_gives_what_scipy_gives(rows: int) -> None:
    """With ties, with gaps, on either side of the size from which SciPy's p-value is that of the limit."""
    from scipy import stats

    draw = np.random.default_rng(rows)
    for old, new in (
        (draw.normal(size=rows), draw.normal(0.05, 1.1, size=rows // 3)),
        (draw.integers(0, 5, rows).astype(float), draw.integers(0, 4, rows // 2).astype(float)),
        (np.where(draw.random(rows) < 0.3, np.nan, draw.exponential(size=rows)), draw.exponential(size=150)),
    ):
        found = distances.between(old, new)
        there = distances.present(old)
        assert found is not None
        assert found.value == pytest.approx(stats.wasserstein_distance(there, new) / there.std(), rel=1e-9)
        assert found.p == pytest.approx(stats.ks_2samp(there, new).pvalue, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("column", ["numbers", "text"])
def test_a_known_column_without_some_rows_is_the_column_of_the_others(column: str) -> None:
    """Without sorting or counting it again; gaps among them too."""
    values = np.where(DRAW.random(500) < 0.2, np.nan, DRAW.normal(size=500))
    if column == "text":
        values = np.where(np.isnan(values), None, np.round(values).astype(str)).astype(object)
    inside = slice(100, 180)
    others = np.concatenate([values[:100], values[180:]])
    found, fresh = distances.ReferenceColumn(values).without(inside), distances.ReferenceColumn(others)
    assert (found.rows, found.missing, found.empty) == (fresh.rows, fresh.missing, fresh.empty)
    assert distances.value(found, values[inside]) == distances.value(fresh, values[inside])
    assert distances.strange(found, values[inside]) == distances.strange(fresh, values[inside])
    assert np.array_equal(found.sorted, fresh.sorted) if column == "numbers" else found.counts == fresh.counts
    assert distances.ReferenceColumn(values[:0]).missing == 0.0


def test_missing_values_are_left_out() -> None:
    """They are looked at by themselves."""
    old = np.array([1.0, np.nan, 2.0, 3.0])
    assert distances.between(old, np.array([1.0, 2.0, np.nan, 3.0])) == distances.between(old[[0, 2, 3]], np.array([1.0, 2.0, 3.0]))
    text = np.array(["a", None, "b"], dtype=object)
    assert distances.between(text, np.array(["a", "b"], dtype=object)) == distances.between(text[[0, 2]], text[[0, 2]])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (np.array([np.nan]), np.array([1.0])),
        (np.array([1.0]), np.array([])),
        (np.array([1.0]), np.array(["1"], dtype=object)),
        (np.array([None], dtype=object), np.array(["1"], dtype=object)),
    ],
)
def test_what_cannot_be_compared_has_no_distance(old: np.ndarray, new: np.ndarray) -> None:
    """Nothing on one side, or numbers beside text."""
    assert distances.between(old, new) is None
    assert distances.value(old, new) is None

"""What is usual: thresholds that hold for rows which depend on their day, for all columns together."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lastgood.drift import calibration, verdict
from lastgood.drift.reference import Sample
from lastgood.service.drift import Drift
from tests.drift.samples import DAY_S, days

RULES = Drift(min_effect=0.0, min_rows=2)


def test_windows_without_drift_seldom_fail() -> None:
    """At 5 % for all columns together, on days that differ as days do; a test for independent rows fails nearly every one."""
    failed, naive = 0, 0
    for number in range(300):
        if number % 30 == 0:
            reference = days(60, spread=0.5, seed=number)
            usual = calibration.calibrate(reference, rows=100, span_s=DAY_S)
        window = days(1, spread=0.5, seed=1000 + number, first=100)
        said = verdict.of_window(window, reference, usual, RULES)
        failed += said.outcome == "fail"
        naive += min(one.p_rows or 1.0 for one in said.columns) < 0.05 / 3
    assert failed <= 27, "9 % of 300, for a promise of 5 %"
    assert naive > 150


def test_drift_is_found_where_days_are_alike() -> None:
    """Half a standard deviation in one column of three, in a hundred rows."""
    reference = days(60)
    usual = calibration.calibrate(reference, rows=100, span_s=DAY_S)
    said = [verdict.of_window(days(1, seed=number, shift=0.5), reference, usual, RULES) for number in range(100, 140)]
    assert sum(one.failed == ("x",) for one in said) >= 36


def test_the_threshold_is_where_the_p_value_is_alpha() -> None:
    """Both come from the same order of stretches: just above it p is at most alpha, just below it is more."""
    usual = calibration.calibrate(days(40, spread=0.3), rows=100, span_s=DAY_S)
    assert usual is not None
    for alpha in (0.05, 0.1, 0.3):
        for column in ("x", "y", "kind"):
            limit = usual.threshold(column, alpha)
            assert usual.p(column, limit + 1e-9) <= alpha < usual.p(column, limit - 1e-9)


def test_too_few_stretches_can_tell_nothing() -> None:
    """A reference of eighteen days knows no usual day at 5 %; and of fifty stretches none can tell one in a hundred."""
    assert calibration.calibrate(days(18), rows=100, span_s=DAY_S) is None
    usual = calibration.calibrate(days(25), rows=100, span_s=DAY_S)
    assert usual is not None
    assert usual.threshold("x", 0.01) == math.inf


def test_it_survives_its_cache() -> None:
    """What was written is what is read."""
    usual = calibration.calibrate(days(30), rows=50, span_s=DAY_S)
    assert usual is not None
    again = calibration.from_json(usual.to_json())
    assert [again.threshold(name, 0.05) for name in usual.usual] == [usual.threshold(name, 0.05) for name in usual.usual]


def test_stretches_have_the_length_and_the_rows_of_the_window() -> None:
    """They overlap by half; of too many rows an even part is taken."""
    reference = days(30, per_day=200)
    found = calibration.blocks(reference, rows=50, span_s=DAY_S)
    assert len(found) >= 57
    for inside, kept in found:
        assert 0 < reference.at[inside][-1] - reference.at[inside][0] <= DAY_S
        assert len(np.unique(kept)) == 50
        assert kept[0] == inside.start
        assert kept[-1] == inside.stop - 1
    assert found[1][0].start - found[0][0].start == 100


def test_windows_of_a_busier_service_are_compared_by_rows() -> None:
    """Where no stretch of that length has enough rows, rows that follow each other stand for it, however long they last."""
    reference = days(50, per_day=20)
    found = calibration.blocks(reference, rows=40, span_s=3600.0)
    assert {inside.stop - inside.start for inside, _ in found} == {40}
    assert calibration.blocks(reference, rows=600, span_s=3600.0) == []


def test_there_are_never_too_many_stretches() -> None:
    """The time it takes has a bound."""
    assert len(calibration.blocks(days(500, per_day=10), rows=10, span_s=DAY_S)) <= calibration.MAX_BLOCKS


@pytest.mark.parametrize("column", ["x", "kind"])
def test_a_column_that_is_missing_for_whole_stretches_is_left_out(column: str) -> None:
    """Nobody can say what is usual for it; the others still have it."""
    reference = days(40)
    reference.columns[column][: 10 * 100] = None if column == "kind" else np.nan
    usual = calibration.calibrate(reference, rows=100, span_s=DAY_S)
    assert usual is not None
    assert set(usual.usual) == {"x", "y", "kind"} - {column}


def _before(at: np.ndarray, *, rows: int, span_s: float) -> list[tuple[slice, list[int]]]:
    """Stretches by going through the whole span, as it was done once: right, and without end for short spans of many years."""
    found = []
    last = at[-1] - span_s
    starts = np.arange(at[0], last + 1e-9, span_s / 2) if last >= at[0] else np.array([])
    for first, end in np.searchsorted(at, np.stack([starts, starts + span_s])).T:
        count = int(end - first)
        if count * 2 >= rows and count * 4 <= len(at):
            kept = np.unique(np.linspace(first, end - 1, min(rows, count)).astype(int))
            found.append((slice(int(first), int(end)), kept.tolist()))
    return found


@settings(max_examples=150, deadline=None)
@given(
    gaps=st.lists(st.sampled_from([0.0, 0.001, 1.0, 59.9, 60.0, 3600.0, 7.5 * 3600, 86_400.0]), min_size=3, max_size=300),
    rows=st.integers(1, 50),
    span_s=st.sampled_from([30.0, 60.0, 61.7, 1800.0, 3600.0, 86_400.0, 7e5]),
    begin=st.sampled_from([0.0, 1.0, 1_767_225_600.0, 1_767_225_600.123456, -5e8]),
)
def test_stretches_are_those_of_the_whole_span(gaps: list[float], rows: int, span_s: float, begin: float) -> None:
    """Looking only where there are rows finds the same stretches, with the same rows of each."""
    at = begin + np.cumsum(gaps)
    sample = Sample(at=at, columns={"x": at})
    made = calibration._by_time(sample, rows=rows, span_s=span_s)
    assert [(inside, kept.tolist()) for inside, kept in made] == _before(at, rows=rows, span_s=span_s)


@pytest.mark.parametrize(("years", "span_s"), [(11, 0.001), (11, 1e-9), (5000, 60.0), (1, 0.0)])
def test_work_goes_by_rows_and_not_by_years(years: int, span_s: float) -> None:
    """Daily rows of many years and short windows once took more memory than there is, and no end, in Dagster's code server too."""
    at = np.linspace(0.0, years * 365.25 * DAY_S, 4018)
    sample = Sample(at=at, columns={"x": np.arange(4018, dtype=np.float64)})
    tracemalloc.start()
    calibration.calibrate(sample, rows=10, span_s=span_s)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 50_000_000

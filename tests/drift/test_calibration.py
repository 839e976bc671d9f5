"""What is usual: thresholds that hold for rows which depend on their day, for all columns together."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lastgood.drift import calibration, verdict
from lastgood.drift_rules import Drift
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

"""The verdict on one window: pass, fail, inconclusive, broken, with the column and the reason."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lastgood.drift import calibration, verdict
from lastgood.drift import reference as drift_reference_file
from lastgood.service.drift import Drift
from tests.drift.samples import DAY_S, changed, days

REFERENCE = days(40, spread=0.2)
USUAL = calibration.calibrate(REFERENCE, rows=200, span_s=2 * DAY_S)
WINDOW = days(2, spread=0.2, seed=7, first=100)
RULES = Drift()


def said(
    window: drift_reference_file.Sample,
    *,
    rules: Drift = RULES,
    usual: calibration.Calibration | None = USUAL,
    trouble: tuple[str, ...] = (),
):
    """The verdict beside the reference."""
    return verdict.of_window(window, REFERENCE, usual, rules, trouble=trouble)


def test_a_usual_window_passes() -> None:
    """With a number for each column, as plain JSON."""
    found = said(WINDOW)
    assert (found.outcome, found.why, found.failed) == ("pass", "3 columns as usual over 200 rows", ())
    told = json.loads(json.dumps(found.to_json()))
    assert {one["name"]: one["measure"] for one in told["columns"]} == {"x": "wasserstein", "y": "wasserstein", "kind": "jensenshannon"}
    assert all(one["distance"] <= one["threshold"] for one in told["columns"])


def test_a_shift_fails_and_is_named_first() -> None:
    """How far, what is usual, and how unusual that is."""
    found = said(changed(WINDOW, x=WINDOW.columns["x"] + 1.5))
    assert (found.outcome, found.failed, found.columns[0].name) == ("fail", ("x",), "x")
    assert found.why.startswith("x: 1.")
    assert "standard deviations from the reference, usual is at most 0." in found.why


def test_an_ignored_column_may_change() -> None:
    """The others are still looked at."""
    found = said(changed(WINDOW, x=WINDOW.columns["x"] + 1.5), rules=Drift(ignore=("x",)))
    assert (found.outcome, [one.name for one in found.columns]) == ("pass", ["kind", "y"])


def test_a_small_difference_is_no_drift_however_sure() -> None:
    """With a floor on the effect of two standard deviations, a shift of one and a half passes."""
    assert said(changed(WINDOW, x=WINDOW.columns["x"] + 1.5), rules=Drift(min_effect=2.0)).outcome == "pass"


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"x": None}, "x: the column is not in the log"),
        ({"x": np.full(200, np.nan)}, "x: 100 % of the values are missing, compared with 0 % in the reference"),
        ({"kind": np.full(200, None, dtype=object)}, "kind: 100 % of the values are missing, compared with 0 % in the reference"),
        (
            {"x": WINDOW.columns["x"] * 0.001 + 300},
            "x: 100 % of the values are outside everything in the reference; did a unit or a code change?",
        ),
        (
            {"kind": np.full(200, "z", dtype=object)},
            "kind: 100 % of the values are never seen in the reference; did a unit or a code change?",
        ),
        ({"x": np.full(200, "1", dtype=object)}, "x: it holds text, but numbers in the reference"),
    ],
)
def test_broken_data_is_told_apart_from_drift(columns: dict[str, np.ndarray], why: str) -> None:
    """Also with a reference that is too short to say what is usual, and in a window of few rows."""
    for usual in (USUAL, None):
        for rules in (RULES, Drift(min_rows=1000)):
            found = said(changed(WINDOW, **columns), usual=usual, rules=rules)
            assert (found.outcome, found.why) == ("broken", why)


@pytest.mark.parametrize("kind", ["missing", "never seen"])
def test_many_more_odd_values_fail_a_column(kind: str) -> None:
    """A tenth of the values, where the reference has none."""
    values = WINDOW.columns["kind"].copy()
    values[::10] = None if kind == "missing" else "z"
    found = said(changed(WINDOW, kind=values), rules=Drift(min_effect=0.9))
    assert (found.outcome, found.failed) == ("fail", ("kind",))
    assert (
        "10.0 % of the values are missing (in the reference 0.0 %)" if kind == "missing" else "10.0 % were never seen there"
    ) in found.why
    few = WINDOW.columns["kind"].copy()
    few[:8] = None if kind == "missing" else "z"
    assert said(changed(WINDOW, kind=few), rules=Drift(min_effect=0.9)).outcome == "pass"


def test_an_empty_window_is_broken_data() -> None:
    """An alarm of its own, and no crashed tick."""
    assert said(drift_reference_file.empty()).outcome == "broken"
    assert "no rows" in said(drift_reference_file.empty()).why


def test_a_log_that_cannot_be_read_is_broken_data() -> None:
    """Whatever the rest of it says."""
    found = said(WINDOW, trouble=("log segment x cannot be read",))
    assert (found.outcome, found.why, found.rows) == ("broken", "log segment x cannot be read", 200)


def test_few_rows_and_short_references_say_nothing() -> None:
    """With what is needed to tell."""
    assert said(WINDOW, rules=Drift(min_rows=201)).why == "200 rows, but a verdict needs 201; make windows longer, or lower drift.min_rows"
    found = said(WINDOW, usual=None)
    assert (found.outcome, "too short" in found.why) == ("inconclusive", True)


def test_a_column_without_values_in_the_reference_says_nothing() -> None:
    """The others do."""
    bare = changed(REFERENCE, extra=np.full(REFERENCE.rows, np.nan))
    found = verdict.of_window(changed(WINDOW, extra=np.ones(200)), bare, USUAL, RULES)
    assert found.outcome == "pass"
    assert {one.name: one.outcome for one in found.columns}["extra"] == "inconclusive"


def gappy(rows: int, *, seed: int, share: float | None = None) -> drift_reference_file.Sample:
    """One column whose values are missing by the day: now none of them, now up to 40 %; or *share* of them."""
    draw = np.random.default_rng(seed)
    day = np.arange(rows) // 200
    of_day = draw.choice([0.0, 0.05, 0.4], int(day[-1]) + 1)[day] if share is None else share
    values = np.where(draw.random(rows) < of_day, np.nan, draw.normal(size=rows))
    return drift_reference_file.Sample(at=day * DAY_S + (np.arange(rows) % 200) * DAY_S / 200, columns={"x": values})


@pytest.mark.parametrize(("share", "outcome"), [(0.0, "pass"), (0.38, "pass"), (0.75, "fail")])
def test_gaps_that_come_in_stretches_are_usual_up_to_the_largest(share: float, outcome: str) -> None:
    """A day with as many gaps as the reference has seen in a day is no drift, though its share is far above the mean."""
    reference = gappy(12_000, seed=1)
    usual = calibration.calibrate(reference, rows=200, span_s=DAY_S)
    found = verdict.of_window(gappy(200, seed=2, share=share), reference, usual, Drift(min_rows=50))
    assert found.outcome == outcome
    assert ("missing" in found.why) == (outcome == "fail")


def test_a_column_that_is_missing_for_whole_stretches_may_be_missing_for_most_of_a_window() -> None:
    """It has no usual distance, and its gaps are usual all the same."""
    day = np.arange(12_000) // 200
    values = np.where(day % 10 == 0, np.nan, np.random.default_rng(1).normal(size=12_000))
    at = day * DAY_S + (np.arange(12_000) % 200) * DAY_S / 200
    reference = drift_reference_file.Sample(at=at, columns={"x": values, "y": np.random.default_rng(2).normal(size=12_000)})
    usual = calibration.calibrate(reference, rows=200, span_s=DAY_S)
    assert usual is not None
    assert "x" not in usual.usual
    window = drift_reference_file.Sample(
        at=at[:200], columns={"x": np.where(np.arange(200) < 160, np.nan, 0.5), "y": reference.columns["y"][:200]}
    )
    found = verdict.of_window(window, reference, usual, Drift(min_rows=50))
    assert {one.name: one.outcome for one in found.columns} == {"x": "inconclusive", "y": "pass"}

"""The loss of the answers: a slow decline is found, nothing is found where nothing changed, and labels may come when they like."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from lastgood.drift import alarm, losses, verdict
from lastgood.drift.reference import Sample
from lastgood.service.drift import Drift
from tests.drift.samples import DAY_S

RULES = Drift()
PER_DAY = 100


def answered(days: int, *, seed: int, bias: object = 0.0, spread: float = 0.3, first: int = 0) -> Sample:
    """Days of answers with their labels; the answers know nothing of *bias*, by day, nor of what the rows of a day share."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=days * PER_DAY)
    hidden = np.repeat(draw.normal(0, spread, days), PER_DAY) + np.repeat(np.broadcast_to(np.asarray(bias), days), PER_DAY)
    label = (draw.random(days * PER_DAY) < 1 / (1 + np.exp(-(x + hidden)))).astype(float)
    at = (first + np.repeat(np.arange(days), PER_DAY)) * DAY_S + np.tile(np.linspace(0, DAY_S, PER_DAY, endpoint=False), days)
    return Sample(at=at, columns={"label": label, "probability": 1 / (1 + np.exp(-x))})


def track(reference: Sample) -> losses.Track:
    """The test of a bundle with this reference."""
    base = losses.baseline(reference, RULES)
    assert base is not None
    return losses.Track(base, alpha=RULES.alpha)


def fails_on(test: losses.Track, sample: Sample, *, first: int = 0) -> int | None:
    """The first day of *sample*, whose days begin with *first*, on which the test fails."""
    loss = losses.of_rows(sample, RULES.decide.score)
    for day, part in enumerate(loss.reshape(-1, PER_DAY)):
        test.take(losses.blocks(part, RULES), at=(first + day) * DAY_S)
        if test.failing:
            return day
    return None


def test_years_without_a_change_seldom_fail() -> None:
    """Its whole share is one in a hundred, for all time; of forty bundles, each with a reference of its own, none fails in a year."""
    found = [fails_on(track(answered(40, seed=seed)), answered(365, seed=500 + seed)) for seed in range(40)]
    assert [day for day in found if day is not None] == []


def test_what_creeps_in_over_years_is_found() -> None:
    """No day differs from the one before it by anything that could be seen; in five years the loss doubles."""
    found = [fails_on(track(answered(40, seed=seed)), answered(1826, seed=900 + seed, bias=np.linspace(0, -3, 1826))) for seed in range(10)]
    assert all(day is not None and day < 1300 for day in found)


def test_what_breaks_at_once_is_found_in_weeks_also_after_a_year_of_calm() -> None:
    """What has been quiet for long is not deaf."""
    bias = np.concatenate([np.zeros(365), np.full(90, -2.0)])
    found = [fails_on(track(answered(40, seed=seed)), answered(455, seed=700 + seed, bias=bias)) for seed in range(10)]
    assert all(day is not None and 365 <= day < 420 for day in found)


def test_the_tests_of_a_year_spend_no_more_than_their_share() -> None:
    """One of the beginning, and one a week; also where an alarm ends, or is kept, every day."""
    assert losses.FIRST + (1 - losses.FIRST) / losses.WEEKS * 365.25 / 7 <= 1
    test = track(answered(40, seed=1))
    for day in range(365):
        test.take(((100, 0.1),), at=day * DAY_S)
        test.restart()
    assert test.p == 1.0
    assert not test.failing


def test_it_goes_on_failing_until_the_loss_is_below_the_limit_again() -> None:
    """Days without labels end nothing; weeks as good as the reference do, and the next decline is found again."""
    test = track(answered(40, seed=1))
    assert fails_on(test, answered(60, seed=2, bias=-2.0)) is not None
    assert test.column(()).outcome == "fail"
    for day, part in enumerate(losses.of_rows(answered(40, seed=3), "brier").reshape(-1, PER_DAY)):
        test.take(losses.blocks(part, RULES), at=(60 + day) * DAY_S)
    assert not test.failing
    assert fails_on(test, answered(60, seed=4, bias=-2.0), first=100) is not None


def test_a_reference_without_labels_has_no_such_column() -> None:
    """Nor has one with a handful of them."""
    sample = answered(40, seed=1)
    assert losses.baseline(Sample(at=sample.at, columns={"x": sample.at}), RULES) is None
    few = sample.columns["label"].copy()
    few[20:] = np.nan
    assert losses.baseline(Sample(at=sample.at, columns={**sample.columns, "label": few}), RULES) is None


def test_the_column_says_how_many_rows_have_labels() -> None:
    """And how good the answers were, on both sides."""
    test = track(answered(40, seed=1))
    column = test.column([losses.Scored(window=0, rows=100, labelled=40, blocks=((40, 0.2),))])
    assert (column.outcome, column.measure, column.distance, column.missing) == ("pass", "brier", 0.2, 0.6)
    assert column.why.startswith("brier 0.2000, on the reference 0.")
    assert column.why.endswith("40 of 100 rows have a label")
    assert test.column([losses.Scored(window=0, rows=100, labelled=0)]).outcome == "inconclusive"


def scored(window: int, labelled: int, *, blocks: bool = False) -> losses.Scored:
    """A window of a hundred rows."""
    return losses.Scored(window=window, rows=100, labelled=labelled, blocks=((labelled, 0.2),) if blocks else ())


def test_a_window_is_read_again_until_its_labels_have_come() -> None:
    """More and more seldom, and a bounded number of times; one that is whole is not read again."""
    pending = losses.Pending(RULES)
    assert pending.due(0) == [0]
    pending.take(scored(0, 0), number=0)
    assert [pending.due(number) for number in (1, 2, 3, 4)] == [[0, 1], [0, 1, 2], [1, 2, 3], [0, 2, 3, 4]]
    pending.take(scored(0, 95, blocks=True), number=4)
    assert 0 not in pending.due(8)
    assert pending.newest == 0
    assert pending.due(100) == [69, 84, 92, 96, 98, 99, 100]


@pytest.mark.parametrize(
    ("number", "before", "labelled", "whole"),
    [
        (0, None, 0, False),
        (0, None, 95, True),
        (0, None, 40, False),
        (1, 40, 60, False),
        (1, 40, 40, True),
        (31, 40, 60, True),
        (31, 40, 0, False),
    ],
)
def test_labels_that_trickle_in_are_waited_for(number: int, before: int | None, labelled: int, whole: bool) -> None:
    """Until nearly all are there, no more come, or it has waited long enough: the first ones are not like the others."""
    pending = losses.Pending(RULES)
    if before is not None:
        pending.take(scored(0, before), number=0)
    assert pending.whole(scored(0, labelled), number=number) is whole


def test_declared_delays_are_waited_for_and_then_enough() -> None:
    """With `label_delay_s` of three days, the window of three days ago is the newest that is read."""
    pending = losses.Pending(Drift.model_validate({"decide": {"label_delay_s": 2.5 * DAY_S}}))
    assert pending.due(2) == []
    assert pending.due(4) == [0, 1]
    assert pending.whole(scored(1, 30), number=4)


def test_what_was_read_survives_the_ledger() -> None:
    """As JSON and back."""
    one = scored(3, 50, blocks=True)
    assert losses.from_json(one.to_json()) == one


def test_the_loss_alarms_at_once_and_the_alarm_begins_after_its_rows() -> None:
    """What is decided about it rests on rows that did not raise it."""
    column = verdict.Column(name=verdict.LOSS, outcome="fail", why="")
    found = verdict.WindowVerdict(outcome="fail", why="", rows=10, columns=(column,))
    episode, change = alarm.follow(alarm.FailingRun(), found, begin=10.0, persistence=3, scored=8.0)
    assert (change, episode.alarm) == ("opened", 8.0)


@pytest.mark.parametrize(("years", "cluster_s"), [(5000, 60.0), (11, 1e-6), (0, DAY_S)])
def test_the_baseline_goes_by_rows_and_not_by_years(years: int, cluster_s: float) -> None:
    """Daily rows of many years, and stretches that are seconds long: no more room than the rows themselves take."""
    count = 20_000
    draw = np.random.default_rng(1)
    label, at = (draw.random(count) < 0.5).astype(float), np.linspace(0.0, years * 365.25 * DAY_S, count)
    sample = Sample(at=at, columns={"label": label, "probability": draw.random(count)})
    tracemalloc.start()
    assert losses.baseline(sample, Drift.model_validate({"decide": {"cluster_s": cluster_s}})) is not None
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20_000_000


def test_the_evidence_of_years_takes_no_more_room_than_that_of_a_month() -> None:
    """Tests that began long ago give way, and windows that were scored are forgotten."""
    test, pending = track(answered(40, seed=1)), losses.Pending(RULES)
    for number in range(4000):
        test.take(((100, 0.2),), at=number * DAY_S)
        pending.take(scored(number, 100, blocks=True), number=number)
    assert len(test._tests._sums) <= losses.MOST_TESTS
    assert len(pending._done) <= 32
    assert len(pending._labelled) <= 32

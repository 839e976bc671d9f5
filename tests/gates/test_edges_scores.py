"""Means of scores at their edges: whole readings, and each limit from both sides, without chance."""

from __future__ import annotations

import math
import types

import pytest

from lastgood.gates import base, eprocess, persistence, scores
from lastgood.gates.base import Observation, Tally
from lastgood.gates.evaluator import Reading, Setup
from lastgood.service import gates
from tests.gates.paths import START

BRIER = gates.Score(metric="score", score="brier", margin=0.25, limit=0.5, window_min=1, min_samples=160, persistence=3)
ACCURACY = gates.Score(metric="score", score="accuracy", margin=0.25, limit=0.5, window_min=1, min_samples=160, persistence=3)
WORSE = "a mean more than {} worse than {}"
BOUNDARY = -math.log(0.01 * 0.98)


def made(gate: gates.Score, *, alone: bool = False) -> scores.Scores:
    """The family of *gate*, which began at START; *alone* it is held against its limit of a half."""
    mode: base.Mode = "alone" if alone else "compare"
    return scores.Scores(gate, Setup(mode=mode, alpha=0.01, since=START), limit=gate.limit if alone else None)


def fed(found: scores.Scores, blocks: int, *, mean: float, beside: float | None = None, rows: int = 16) -> scores.Scores:
    """*found*, after one block each minute with exactly these means."""
    other = None if beside is None else Tally(n=rows, total=rows * beside)
    for place in range(blocks):
        found.take(Observation(at=START + 60.0 * place + 30, watched=Tally(n=rows, total=rows * mean), beside=other), step=0)
    return found


def test_before_the_first_row_there_is_nothing_to_say() -> None:
    """Neither of means nor of rows; the limit is known from the beginning, and nothing is said to be lacking but rows."""
    start = {"story": "no mean brier yet", "evidence": 0.0, "boundary": BOUNDARY, "persistence": 3}
    assert made(BRIER).read() == Reading(harm=WORSE.format("0.25", "stable"), **start)  # type: ignore[arg-type]
    assert made(BRIER, alone=True).read() == Reading(harm="a mean worse than allowed", reference=0.5, **start)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gate", "mean", "interval"),
    [(BRIER, 0.75, (0.25, 0.25)), (ACCURACY, 0.25, (-0.25, -0.25))],
    ids=["lower is better", "higher is better"],
)
def test_a_reading_beside_stable_has_all_of_it(gate: gates.Score, mean: float, interval: tuple[float, float]) -> None:
    """Exactly as much worse as is allowed, in blocks without any spread: a pass from the tenth block on, not before."""
    for blocks in (9, 10):
        found = fed(made(gate), blocks, mean=mean, beside=0.5)
        rows = 16 * blocks
        passes = blocks == 10
        assert found.read() == Reading(
            story=f"mean {gate.score} {mean} ({rows} rows in {blocks} blocks) against 0.5 ({rows} rows) of stable",
            harm=WORSE.format("0.25", "stable"),
            passes="excluded" if passes else None,
            estimate=mean,
            reference=0.5,
            interval=interval if passes else None,
            evidence=found._wealth.log_e,
            boundary=BOUNDARY,
            persistence=3,
            needs=None if passes else 16,
        )


@pytest.mark.parametrize(
    ("gate", "mean", "interval"), [(BRIER, 0.5, (0.0, 0.0)), (BRIER, 0.625, (0.125, 0.125)), (ACCURACY, 0.375, (-0.125, -0.125))]
)
def test_a_reading_alone_has_all_of_it(gate: gates.Score, mean: float, interval: tuple[float, float]) -> None:
    """The limit itself is allowed; an eighth more is not, for the margin is part of a limit already."""
    found = fed(made(gate, alone=True), 11, mean=mean)
    within = mean == 0.5
    assert found.read() == Reading(
        story=f"mean {gate.score} {mean:.4g} (176 rows in 11 blocks) against 0.5 allowed",
        harm="a mean worse than allowed",
        passes="excluded" if within else None,
        estimate=mean,
        reference=0.5,
        interval=interval,
        evidence=found._wealth.log_e,
        boundary=BOUNDARY,
        streak=0 if within else 1,
        persistence=3,
    )


def test_alone_the_arm_beside_it_is_of_no_account() -> None:
    """Few rows of it hold up no block, and worse ones excuse nothing."""
    alone = fed(made(BRIER, alone=True), 11, mean=0.625)
    other = made(BRIER, alone=True)
    for place in range(11):
        other.take(Observation(at=START + 60.0 * place + 30, watched=Tally(n=16, total=10.0), beside=Tally(n=1, total=1.0)), step=0)
    assert other.read() == alone.read()


@pytest.mark.parametrize(("least", "passes", "needs"), [(160, "excluded", None), (161, None, 2), (320, None, 160)])
def test_ten_blocks_pass_with_the_rows_that_are_asked_for(least: int, passes: base.Cause | None, needs: int | None) -> None:
    """One row less does not, however clear the blocks are; what is lacking is told to two rows in a hundred, a doubling exactly."""
    found = fed(made(BRIER.model_copy(update={"min_samples": least})), 10, mean=0.5, beside=0.5).read()
    assert (found.passes, found.needs) == (passes, needs)


@pytest.mark.parametrize(("looks", "beside"), [([5, 0], None), ([5], Tally()), ([5, 5], None), ([1], None)])
def test_rows_without_stable_beside_them_are_told_as_such(looks: list[int], beside: Tally | None) -> None:
    """Whether its figures are missing or empty, and also when the newest look brought no row at all."""
    found = made(BRIER)
    for place, n in enumerate(looks):
        found.take(Observation(at=START + place, watched=Tally(n=n, total=n / 2), beside=beside), step=0)
    assert found.read().lacks == "no rows of stable to compare with"


def test_rows_without_stable_are_not_cancelled_by_rows_with_an_empty_one() -> None:
    """Five of the one and five of the other are ten rows without anything beside them."""
    found = made(BRIER)
    for place, beside in enumerate((None, Tally())):
        found.take(Observation(at=START + place, watched=Tally(n=5, total=1.0), beside=beside), step=0)
    assert found.read().lacks == "no rows of stable to compare with"


@pytest.mark.parametrize(("rows", "lacks"), [(0, ""), (1, "fewer than two blocks of 10 rows so far")])
def test_one_row_lacks_blocks_and_none_lacks_rows(rows: int, lacks: str) -> None:
    """Without any row the sentence is about rows."""
    found = made(BRIER)
    found.take(Observation(at=START + 1, watched=Tally(n=rows, total=0.5 * rows), beside=Tally(n=50, total=25.0)), step=0)
    assert found.read().lacks == lacks


def test_evidence_at_its_boundary_fails() -> None:
    """The guarantee holds there already; a hair below it does not."""
    found = fed(made(BRIER), 5, mean=1.0, beside=0.0)
    reached = found._wealth.log_e
    for boundary, cause in ((reached, "sequential"), (math.nextafter(reached, math.inf), None)):
        found._setup = types.SimpleNamespace(boundary=boundary)  # type: ignore[assignment]
        assert found.fails() == cause


def test_a_window_at_its_level_is_over() -> None:
    """As improbable as it must be, and a hair less than that."""
    found = made(BRIER)
    for place in range(10):
        fed(found, 1, mean=0.5 + place % 2 / 4, beside=0.5)
    watched, beside = Tally(n=16, total=14.0), Tally(n=16, total=8.0)
    chance = persistence.normal_tail(0.125 * math.sqrt(8.0) / found._blocks.row_sd)
    for level, over in ((chance, True), (math.nextafter(chance, 0), False)):
        found._level = level
        assert found._over(watched, beside) is over


@pytest.mark.parametrize("beside", [None, Tally()])
def test_a_window_without_stable_cannot_be_told(beside: Tally | None) -> None:
    """Though there are blocks enough from before."""
    found = fed(made(BRIER), 12, mean=1.0, beside=0.5)
    assert found._over(Tally(n=16, total=16.0), Tally(n=16, total=8.0)) is True
    assert found._over(Tally(n=16, total=16.0), beside) is None


def test_three_bad_windows_fail_where_the_evidence_may_not_speak() -> None:
    """The ten blocks before the first of them are those from which their spread is known."""
    for blocks, cause in ((12, None), (13, "persistence")):
        found = fed(made(BRIER), blocks, mean=1.0, beside=0.5)
        found._setup = types.SimpleNamespace(boundary=math.inf)  # type: ignore[assignment]
        assert found.fails() == cause


@pytest.mark.parametrize(("step", "blocks"), [(0, 1), (1, 0)])
def test_rows_of_two_phases_are_never_one_block(step: int, blocks: int) -> None:
    """Five and five make the ten of a block, unless the share of traffic has grown in between."""
    found = made(BRIER)
    for place, phase in enumerate((0, step)):
        found.take(Observation(at=START + place, watched=Tally(n=5, total=2.0), beside=Tally(n=50, total=25.0)), step=phase)
    assert found.read().story == f"mean brier 0.4 (10 rows in {blocks} blocks) against 0.5 (100 rows) of stable"


def test_a_block_is_measured_by_all_blocks_so_far_and_itself() -> None:
    """Each worth eight rows, beyond the margin by a quarter and then by a half.

    The first is its own unit, so it counts 1. The second is in units of the root of the mean square of both.
    """
    found = fed(fed(made(BRIER), 1, mean=1.0, beside=0.5), 1, mean=1.25, beside=0.5)
    wealth = eprocess.Wealth(eprocess.EFFECT_PRIOR, since=START)
    for z in (1.0, 0.5 / math.sqrt((0.25**2 + 0.5**2) / 2)):
        wealth.grow(eprocess.symmetric(z), at=START, step=0)
    assert found._wealth.log_e == pytest.approx(wealth.log_e, rel=1e-12)

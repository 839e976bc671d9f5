"""Error rates against stable at their edges: whole readings, rates on equal terms worked out by hand, each limit from both sides."""

from __future__ import annotations

import math

import pytest

from lastgood.gates import confidence, eprocess, error_rate, persistence, proportions
from lastgood.gates.base import Observation, Tally
from lastgood.gates.evaluator import Family, Reading, Setup, percent
from lastgood.gates.overdispersion import Dispersion
from lastgood.service import gates
from tests.gates.paths import START

ERRORS = gates.ErrorRate(metric="error_rate", margin=0.5, persistence=4, window_min=1)
BOUNDARY = -math.log(0.01 * 0.98)


def setup() -> Setup:
    """A gate that began at START, with stable beside it."""
    return Setup(mode="compare", alpha=0.01, since=START)


def look(found: Family, watched: Tally, beside: Tally, *, at: float = 1.0, step: int = 0) -> None:
    """Let *found* take in one observation, *at* seconds after START."""
    found.take(Observation(at=START + at, watched=watched, beside=beside), step=step)


def test_a_reading_of_errors_has_all_of_it() -> None:
    """Before the first request; with half of the requests that a pass takes; with all but one of them; and with all."""
    rest = {"harm": "more than 50 points above stable", "evidence": 0.0, "boundary": BOUNDARY, "persistence": 4}
    start = error_rate.Errors(ERRORS, setup())
    assert start.read() == Reading(story="error rate unknown (none yet) against unknown (none yet) of stable", **rest)  # type: ignore[arg-type]
    for n, needs in ((100, 100), (199, 2), (200, None)):
        found = error_rate.Errors(ERRORS, setup())
        look(found, Tally(n=n, bad=1), Tally(n=1000, bad=50))
        bad = percent(1 / n)
        rest["evidence"] = found._arms.wealth.log_e
        assert found.read() == Reading(
            story=f"error rate {bad} (1 of {n}) against 5.0 % (50 of 1,000) of stable",
            passes=None if needs else "excluded",
            estimate=1 / n,
            reference=0.05,
            interval=confidence.difference(1, n, 50, 1000),
            needs=needs,
            **rest,  # type: ignore[arg-type]
        )


def test_a_bound_at_the_margin_excludes_more_than_it() -> None:
    """The margin itself is allowed; the next smaller one is not excluded, and it says what that takes."""
    high = confidence.difference(0, 400, 0, 4000)[1]
    for margin, passes in ((high, "excluded"), (math.nextafter(high, 0), None)):
        found = error_rate.Errors(ERRORS.model_copy(update={"margin": margin}), setup())
        look(found, Tally(n=400), Tally(n=4000))
        reading = found.read()
        assert (reading.passes, reading.needs) == (passes, None if passes else 4)


def test_what_is_needed_to_exclude_a_difference_is_so_many_requests_more() -> None:
    """With the errors of both arms all along: enough of them exclude it, a fiftieth less would not; a doubling is told exactly."""
    gate = ERRORS.model_copy(update={"margin": 0.02})
    found = error_rate.Errors(gate, setup())
    look(found, Tally(n=400, bad=4), Tally(n=4000, bad=40))
    needs = found.read().needs
    assert needs is not None
    more, fewer = (400 + needs) / 400, (400 + needs) / 400 / 1.03
    high, less = (confidence.difference(4 * times, 400 * times, 40 * times, 4000 * times)[1] for times in (more, fewer))
    assert high <= 0.02 < less
    double = error_rate.Errors(gate.model_copy(update={"margin": confidence.difference(8, 800, 80, 8000)[1]}), setup())
    look(double, Tally(n=400, bad=4), Tally(n=4000, bad=40))
    assert double.read().needs == 400


@pytest.mark.parametrize(("step", "evidence"), [(0, True), (1, False)])
def test_requests_of_two_phases_are_never_one_observation(step: int, evidence: bool) -> None:
    """Two and two make the four of a pool, unless the share of traffic has grown in between."""
    arms = proportions.Arms(setup())
    for place, phase in enumerate((0, step)):
        arms.take(Tally(n=2, bad=2), Tally(n=40), at=START + place, step=phase)
    assert (arms.wealth.log_e > 0.1) == evidence
    assert arms.wealth.log_e >= 0


def test_requests_of_one_arm_in_one_phase_and_of_the_other_in_another_are_no_comparison() -> None:
    """They served at different times."""
    found = error_rate.Errors(ERRORS, setup())
    look(found, Tally(n=9), Tally())
    look(found, Tally(), Tally(n=9), step=1)
    assert found.read().lacks == "no requests of stable to compare with"
    look(found, Tally(n=1), Tally(n=1), at=2, step=2)
    assert (found.read().lacks, found.read().estimate, found.read().reference) == ("", 0.0, 0.0)


def test_stables_rate_is_that_of_each_phase_weighted_with_the_watched_arms_requests() -> None:
    """A quarter of them in a phase of 5 % and three quarters in one of 1 % make 2 %, whatever stable's own traffic was.

    Its size is that of a Poisson number with the rate's variance, of half an error more in each phase.
    """
    arms = error_rate.Strata()
    for step, watched, beside in ((0, Tally(n=100, bad=10), Tally(n=100, bad=5)), (1, Tally(n=300, bad=15), Tally(n=900, bad=9))):
        arms.take(Observation(at=START + step, watched=watched, beside=beside), step=step)
    bad, n, bad_beside, n_beside = arms.rates()
    assert (bad, n) == (25, 400)
    assert bad_beside / n_beside == pytest.approx(0.02)
    variance = 5.5 / 400**2 + 9.5 / 1200**2
    assert n_beside == pytest.approx((0.02 + 0.5 / 400 + 0.5 / 1200) / variance)


@pytest.mark.parametrize(("steps", "apart"), [((0, 1), True), ((6, 7), True), ((7, 8), False), ((8, 30), False)])
def test_the_eighth_phase_and_all_later_ones_are_one(steps: tuple[int, int], apart: bool) -> None:
    """Together their plain rates count; apart they are weighted."""
    arms = error_rate.Strata()
    for step, beside in zip(steps, (Tally(n=100, bad=50), Tally(n=900)), strict=True):
        arms.take(Observation(at=START + 1, watched=Tally(n=100), beside=beside), step=step)
    *_, bad_beside, n_beside = arms.rates()
    assert bad_beside / n_beside == pytest.approx(0.25 if apart else 0.05)


def test_a_phase_without_either_arm_has_no_weight() -> None:
    """Neither one in which stable had no request, nor one in which the watched arm had none."""
    arms = error_rate.Strata()
    seen = ((Tally(n=10, bad=1), Tally(n=90, bad=2)), (Tally(n=50, bad=50), Tally()), (Tally(), Tally(n=70, bad=70)))
    for step, (watched, beside) in enumerate(seen):
        arms.take(Observation(at=START + step, watched=watched, beside=beside), step=step)
    assert arms.rates() == (1, 10, 2, 90)


def test_bets_are_damped_by_what_was_known_when_their_pool_was_opened() -> None:
    """What clumping comes to light while a pool fills must not weigh on its own bets, or the guarantee is gone."""
    arms, clumping, wealth = proportions.Arms(setup()), Dispersion(since=START), eprocess.Wealth(eprocess.RATIO_PRIOR, since=START)
    for minute in range(12):
        opened = 1.0
        # late in one minute a pool is opened, early in the next one, which has other errors, it is full
        for second, bad in ((50, 40 * (minute % 2)), (80, 40 * (1 - minute % 2))):
            at = START + 60 * minute + second
            arms.take(Tally(n=2, bad=1), Tally(n=400, bad=bad), at=at, step=0)
            clumping.take(at, 400, bad)
            opened = clumping.factor if second == 50 else opened
        bets = eprocess.two_arms(Tally(n=4, bad=2), Tally(n=800, bad=40))
        wealth.grow(eprocess.damped(bets, opened), at=at, step=0)
    assert clumping.factor > 10
    assert arms.wealth.log_e == pytest.approx(wealth.log_e, rel=1e-9)


def test_the_same_arms_with_no_more_than_chance_are_not_over() -> None:
    """As improbable as a window must be, and a hair less than that."""
    found = error_rate.Errors(ERRORS.model_copy(update={"margin": 0.25}), setup())
    chance = persistence.tail(9, 10, 0.5)
    for level, over in ((chance, True), (math.nextafter(chance, 0), False)):
        found._level = level
        assert found._over(Tally(n=10, bad=9), Tally(n=10, bad=1)) is over


@pytest.mark.parametrize(("watched", "beside"), [(Tally(), Tally(n=5)), (Tally(n=5, bad=5), Tally()), (Tally(n=5, bad=5), None)])
def test_a_window_of_one_arm_cannot_be_told(watched: Tally, beside: Tally | None) -> None:
    """Whichever is missing."""
    assert error_rate.Errors(ERRORS, setup())._over(watched, beside) is None


def test_evidence_at_its_boundary_fails() -> None:
    """The guarantee holds there already; a hair below it does not."""
    found = error_rate.Errors(ERRORS, setup())
    look(found, Tally(n=40, bad=20), Tally(n=400, bad=4))
    reached = found._arms.wealth.log_e
    for boundary, cause in ((reached, "sequential"), (math.nextafter(reached, math.inf), None)):
        found._boundary = boundary
        assert found.fails() == cause

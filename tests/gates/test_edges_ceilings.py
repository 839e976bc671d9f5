"""Rates against a limit at their edges: from both sides, with stable beside them and without."""

from __future__ import annotations

import math
import types

import pytest

from lastgood.gates import base, confidence, error_rate, persistence, proportions
from lastgood.gates.base import Observation, Tally
from lastgood.gates.evaluator import Family, Reading, Setup
from lastgood.service import gates
from tests.gates.paths import START

ERRORS = gates.ErrorRate(metric="error_rate", margin=0.5, persistence=4, window_min=1)
MAX = gates.ErrorRate(metric="error_rate", margin=0.5, max=0.25, persistence=2, window_min=1)
BOUNDARY = -math.log(0.01 * 0.98)


def setup(mode: base.Mode = "compare", *, reference: Tally | None = None) -> Setup:
    """A gate that began at START."""
    return Setup(mode=mode, alpha=0.01, since=START, reference=reference)


def look(found: Family, watched: Tally, beside: Tally | None = None, *, at: float = 1.0) -> None:
    """Let *found* take in one observation, *at* seconds after START."""
    found.take(Observation(at=START + at, watched=watched, beside=beside), step=0)


@pytest.mark.parametrize(("bad", "over"), [(25, False), (26, True)])
def test_a_rate_at_its_limit_is_within(bad: int, over: bool) -> None:
    """For the plain rate, for a window, and for stable beside it."""
    found = proportions.Ceiling(MAX, setup(), limit=0.25, noun="error rate")
    found._level = 0.9
    look(found, Tally(n=100, bad=bad), Tally(n=100, bad=bad))
    assert (found._watched.over, found._beside.over) == (over, over)
    assert found._over(Tally(n=100, bad=bad), None) is over
    assert found._beside_over(Tally(n=1), Tally(n=100, bad=bad)) is over
    assert found._beside_over(Tally(n=1), None) is False
    assert found.read().lacks == ("above 25.0 %, but not yet significant" if over else "")


def test_a_window_of_a_rate_at_its_level_is_over() -> None:
    """As improbable as it must be, and a hair less than that."""
    found = proportions.Ceiling(MAX, setup("alone"), limit=0.25, noun="error rate")
    chance = persistence.tail(9, 10, 0.25)
    for level, over in ((chance, True), (math.nextafter(chance, 0), False)):
        found._level = level
        assert found._over(Tally(n=10, bad=9), None) is over


def test_a_rate_whose_bound_is_at_the_limit_passes() -> None:
    """What is not excluded is more than it; with a limit a hair below, it is told what that takes."""
    high = confidence.proportion(0, 300)[1]
    for limit, passes in ((high, "excluded"), (math.nextafter(high, 0), None)):
        found = proportions.Ceiling(MAX, setup("alone"), limit=limit, noun="error rate")
        look(found, Tally(n=300))
        reading = found.read()
        assert (reading.passes, reading.needs) == (passes, None if passes else 3)


@pytest.mark.parametrize(("n", "passes", "needs"), [(100, None, 100), (199, None, 2), (200, "excluded", None)])
def test_a_rate_passes_with_the_requests_that_are_asked_for(n: int, passes: base.Cause | None, needs: int | None) -> None:
    """Of one request in a hundred no doubt is left much sooner."""
    found = proportions.Ceiling(MAX, setup("alone"), limit=0.25, noun="error rate")
    look(found, Tally(n=n, bad=1))
    assert (found.read().passes, found.read().needs) == (passes, needs)


def test_what_is_needed_to_exclude_a_rate_is_so_many_requests_more() -> None:
    """With one bad in two hundred all along: enough of them exclude it, a fiftieth less would not; a doubling is told exactly."""
    found = proportions.Ceiling(MAX, setup("alone"), limit=0.02, noun="error rate")
    look(found, Tally(n=400, bad=2))
    needs = found.read().needs
    assert needs is not None
    high, less = (confidence.proportion(total / 200, total)[1] for total in (400 + needs, (400 + needs) / 1.03))
    assert high <= 0.02 < less
    double = proportions.Ceiling(MAX, setup("alone"), limit=confidence.proportion(4, 800)[1], noun="error rate")
    look(double, Tally(n=400, bad=2))
    assert double.read().needs == 400


def test_a_rate_above_the_limit_is_not_told_to_wait() -> None:
    """Fifteen slow ones of a thousand: two percent could be excluded in time, but one is allowed."""
    latency = gates.LatencyP99(metric="latency_p99", max_ms=100)
    for bad, told in ((10, True), (15, False)):
        found = proportions.latency(latency, setup())
        look(found, Tally(n=1000, bad=bad))
        assert (found.read().needs is not None) == told


def test_evidence_at_its_boundary_fails() -> None:
    """The guarantee holds there already; a hair below it does not."""
    ceiling = proportions.Ceiling(MAX, setup("alone"), limit=0.25, noun="error rate")
    look(ceiling, Tally(n=40, bad=20))
    reached = ceiling._watched.log_e
    for boundary, cause in ((reached, "sequential"), (math.nextafter(reached, math.inf), None)):
        ceiling._setup = types.SimpleNamespace(boundary=boundary)  # type: ignore[assignment]
        assert ceiling.fails() == cause


def test_five_bad_windows_are_a_row_in_the_reading() -> None:
    """Of errors and of a limit alike."""
    for found in (error_rate.Errors(ERRORS, setup()), proportions.Ceiling(MAX, setup(), limit=0.25, noun="error rate")):
        for minute in range(6):
            look(found, Tally(n=40, bad=38), Tally(n=400, bad=4), at=60 * minute + 30)
        assert found.read().streak == 5
        assert found._windows.failing


@pytest.mark.parametrize(("beside", "shared"), [(Tally(n=400, bad=300), True), (Tally(n=400, bad=100), False), (None, False)])
def test_windows_in_which_stable_is_over_as_well_excuse(beside: Tally | None, shared: bool) -> None:
    """By themselves, where neither its rate nor its evidence would; at its limit it is not over."""
    found = proportions.Ceiling(MAX, setup(), limit=0.25, noun="error rate")
    for minute in range(4):
        look(found, Tally(n=40, bad=38), beside, at=60 * minute + 30)
    found._beside = types.SimpleNamespace(over=False, log_e=0.0)  # type: ignore[assignment]
    found._arms = types.SimpleNamespace(worse=False)  # type: ignore[assignment]
    assert found.both() is shared
    assert found._windows.shared == (3 if shared else 0)


def test_with_a_limit_of_its_own_stable_may_be_over_it_as_well() -> None:
    """Nobody is blamed then; without that limit nothing is shared; and a clearly worse arm is blamed all the same."""
    for gate, share, found in ((MAX, 0.6, (None, True)), (ERRORS, 0.6, (None, False)), (MAX, 0.9, ("sequential", False))):
        made = error_rate.Errors(gate, setup())
        for place in range(30):
            look(made, Tally(n=10, bad=round(10 * share)), Tally(n=100, bad=60), at=place)
        assert (made.fails(), made.both()) == found


# --- which limit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "reference", "limit"),
    [(MAX, None, 0.25), (MAX, Tally(n=4, bad=1), 0.25), (ERRORS, Tally(n=1, bad=0), 0.5), (ERRORS, Tally(n=4, bad=1), 0.75)],
)
def test_alone_an_error_rate_has_its_limit_from_the_gate_or_from_before(
    gate: gates.ErrorRate, reference: Tally | None, limit: float
) -> None:
    """What the gate says, or else what stable had and the margin; nothing beside it excuses anything."""
    made = error_rate.errors(gate, setup("alone", reference=reference))
    look(made, Tally(n=200), Tally(n=200, bad=200))
    assert made.read() == Reading(
        story=f"error rate 0.0 % (0 of 200) where {100 * limit:.1f} % is allowed",
        harm=f"more than {100 * limit:.1f} %",
        passes="excluded",
        estimate=0.0,
        reference=limit,
        interval=(-limit, confidence.proportion(0, 200)[1] - limit),
        evidence=made._watched.log_e,  # type: ignore[attr-defined]
        boundary=BOUNDARY,
        persistence=gate.persistence,
    )

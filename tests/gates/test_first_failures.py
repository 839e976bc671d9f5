"""Each user counts once, and falls on the watched arm with its share: through steps, users known already, and depletion."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lastgood.gates import eprocess, first_failures
from lastgood.gates.base import Failure
from lastgood.gates.first_failures import FirstFailures, more_active

START = 1_700_000_000.0


def failing(*users: str, watched: bool) -> list[Failure]:
    """These users, all on one arm."""
    return [Failure(user, watched) for user in users]


def taken(made: FirstFailures, failures: list[Failure], *, share: float = 0.2, step: int = 0, at: float = 1.0, activity: float = 1.0):
    """What came of it: how many were new on either arm."""
    return made.take(failures, share=share, activity=activity, at=START + at, step=step)


def evidence(*bets: tuple[int, int, float]) -> float:
    """Log of the e-value of one who bets from the beginning and saw (watched, both, chance) one after the other."""
    wealth = eprocess.Wealth(eprocess.RATIO_PRIOR, since=START)
    for watched, both, chance in bets:
        wealth.grow(eprocess.above(watched, both, limit=chance), at=START, step=0)
    return wealth.whole


def test_a_user_counts_once_however_often_it_fails() -> None:
    """At one look or at many."""
    made = FirstFailures(since=START)
    assert taken(made, failing("a", watched=True) + failing("b", "c", watched=False)) == (1, 2)
    for at in range(50):
        assert taken(made, failing("a", watched=True) + failing("b", watched=False), at=2 + at) == (0, 0)
    assert (made.watched, made.beside) == (1, 2)
    assert made.expected == pytest.approx(0.6)
    assert made.log_e == pytest.approx(evidence((1, 3, 0.2)))


def test_in_a_new_step_whoever_failed_on_stable_may_have_moved() -> None:
    """With the chance that the growth of the share gives; who failed on the candidate tells nothing more, who is new the share."""
    made = FirstFailures(since=START)
    taken(made, failing("a", watched=True) + failing("b", "c", watched=False), share=0.2)
    assert taken(made, failing("a", "b", watched=True) + failing("c", "d", watched=False), share=0.6, step=1) == (1, 2)
    moved = (0.6 - 0.2) / (1 - 0.2)
    assert made.expected == pytest.approx(3 * 0.2 + 2 * moved + 0.6)
    # b is on the candidate for certain by now; c may move in the last step, from (0.6, 1)
    assert taken(made, failing("b", watched=True) + failing("c", watched=False), share=0.8, step=2) == (0, 1)
    assert made.expected == pytest.approx(3 * 0.2 + 2 * moved + 0.6 + (0.8 - 0.6) / (1 - 0.6))


def test_a_share_that_shrinks_takes_users_back() -> None:
    """Whoever failed on the candidate may be on stable now; whoever failed on stable is there still."""
    made = FirstFailures(since=START)
    taken(made, failing("a", watched=True) + failing("b", watched=False), share=0.5)
    assert taken(made, failing("a", "b", watched=False), share=0.1, step=1) == (0, 1)
    assert made.expected == pytest.approx(0.5 + 0.5 + 0.1 / 0.5)


def test_a_user_on_an_arm_where_it_cannot_be_tells_nothing() -> None:
    """A proxy that does not split by user is another gate's matter."""
    made = FirstFailures(since=START)
    taken(made, failing("a", watched=True), share=0.2)
    assert taken(made, failing("a", watched=False), share=0.6, step=1) == (0, 0)


def test_users_beyond_the_most_that_are_remembered_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who are, go on to count in later steps."""
    monkeypatch.setattr(first_failures, "MOST_USERS", 3)
    made = FirstFailures(since=START)
    assert taken(made, failing("a", "b", "c", "d", watched=False)) == (0, 3)
    assert taken(made, failing("a", "e", watched=False), share=0.4, step=1) == (0, 1)


@pytest.mark.parametrize(
    ("chance", "activity", "expected"), [(0.2, 1.0, 0.2), (0.5, 2.0, 2 / 3), (0.2, 0.5, 0.2), (1.0, 3.0, 1.0), (0.05, 4.0, 0.2 / 1.15)]
)
def test_who_asks_more_often_fails_sooner(chance: float, activity: float, expected: float) -> None:
    """A less active arm is not thereby to blame for less: the chance is never below the share."""
    assert more_active(chance, activity) == pytest.approx(expected)


def test_after_an_outage_of_stable_alone_the_rest_is_no_evidence() -> None:
    """The users who have not failed yet are the candidate's by then, so a bettor who begins later is not believed."""
    made = FirstFailures(since=START)
    taken(made, failing(*(f"s{i}" for i in range(950)), watched=False), share=0.05)
    for minute in range(40):
        taken(made, failing(f"c{minute}", watched=True), share=0.05, at=3600.0 + 60 * minute)
    assert made._wealth.log_e > 20, "a start later than the beginning would decide"
    assert not made.more
    assert made.log_e == made._wealth.whole < 0


def test_a_later_fault_is_found_by_a_later_start_once_more_users_failed() -> None:
    """Beyond what chance explains of all users who failed so far."""
    made = FirstFailures(since=START)
    taken(made, failing(*(f"s{i}" for i in range(190)), watched=False) + failing(*(f"c{i}" for i in range(10)), watched=True), share=0.05)
    for minute in range(30):
        taken(made, failing(f"d{minute}", watched=True), share=0.05, at=7200.0 + 60 * minute)
    assert made.more
    assert made.log_e == made._wealth.log_e > 20


def test_under_the_hypothesis_the_evidence_is_worth_one() -> None:
    """Mean of the e-value over many releases that ramp, at a moment that the failures decide on."""
    rng = np.random.default_rng(5)
    values = []
    for _ in range(4000):
        made, place = FirstFailures(since=START), rng.random(12)
        for step, share in enumerate((0.1, 0.3, 0.6)):
            for user in rng.choice(12, size=5, p=np.arange(1, 13) / 78):
                taken(made, failing(str(user), watched=bool(place[user] < share)), share=share, step=step)
                if made._wealth.log_e > 1.5:
                    break
        values.append(math.exp(made._wealth.log_e))
    assert np.mean(values) == pytest.approx(1.0, abs=4 * np.std(values) / math.sqrt(len(values)))
    assert np.std(values) > 0.3

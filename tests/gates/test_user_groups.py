"""What requests are worth when users differ, and which arm's users ask more often."""

from __future__ import annotations

import numpy as np
import pytest

from lastgood.gates.base import GROUPS, Group
from lastgood.gates.user_groups import Arm, UserGroups


def arm(n: list[int], bad: list[int]) -> Arm:
    """One with these requests by group."""
    made = Arm()
    for group, (one, failed) in enumerate(zip(n, bad, strict=True)):
        made.add(group, one, failed)
    return made


def test_independent_requests_are_worth_one_each() -> None:
    """Over many draws the design effect is one, but for the caution of few groups."""
    rng = np.random.default_rng(1)
    effects = [arm([500] * GROUPS, rng.binomial(500, 0.02, GROUPS).tolist()).effect for _ in range(400)]
    assert np.mean(effects) == pytest.approx((GROUPS + 2) / GROUPS, abs=0.2)


def test_one_user_who_always_fails_makes_all_requests_worth_little() -> None:
    """Its thousand failures are one piece of news."""
    spread = arm([1000] * GROUPS, [50] * GROUPS)
    alone = arm([1000] * GROUPS, [1000, *[0] * (GROUPS - 1)])
    assert spread.rate == alone.rate == 0.05
    assert spread.effect == 1.0
    assert alone.effect > 900


@pytest.mark.parametrize("made", [Arm(), arm([9] + [0] * (GROUPS - 1), [9] + [0] * (GROUPS - 1)), arm([5] * GROUPS, [0] * GROUPS)])
def test_without_anything_to_tell_the_spread_by_it_is_that_of_requests(made: Arm) -> None:
    """No requests, one group, no failures."""
    assert made.effect == 1.0


def grouped(watched: list[int], beside: list[int], *, share: float) -> UserGroups:
    """Both arms' requests of one look."""
    made = UserGroups()
    made.take([Group(group, n, 0, other, 0) for group, (n, other) in enumerate(zip(watched, beside, strict=True))], share=share)
    return made


def test_activity_is_requests_per_user() -> None:
    """A fifth of the users with a fifth of the requests is as active as the others; by the odds of the requests it is more or less."""
    assert grouped([20] * GROUPS, [80] * GROUPS, share=0.2).activity == pytest.approx(1.0)
    assert grouped([40] * GROUPS, [80] * GROUPS, share=0.2).activity == pytest.approx(2.0)
    assert grouped([10] * GROUPS, [80] * GROUPS, share=0.2).activity == pytest.approx(0.5)


def test_one_bot_is_not_an_arm_that_asks_more_often() -> None:
    """The group with most above its share is left out, of both arms."""
    assert grouped([5000, *[20] * (GROUPS - 1)], [80] * GROUPS, share=0.2).activity == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("watched", "beside"), [([0] * GROUPS, [5] * GROUPS), ([5] * GROUPS, [0] * GROUPS), ([7] + [0] * 19, [7] + [0] * 19)]
)
def test_activity_that_cannot_be_told_is_one(watched: list[int], beside: list[int]) -> None:
    """No requests of an arm, or of one group alone."""
    assert grouped(watched, beside, share=0.5).activity == 1.0


def test_the_fair_number_of_requests_is_the_share_of_both() -> None:
    """Whatever either arm drew."""
    made = grouped([40] * GROUPS, [60] * GROUPS, share=0.2)
    assert made.fair == pytest.approx(0.2 * 100 * GROUPS)

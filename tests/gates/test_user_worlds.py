"""The gate on errors in worlds of users: equal bundles stay, whoever the users are; bad ones go. `bench gates` has the figures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bench import user_worlds
from bench.user_worlds import World
from lastgood.gates import base
from lastgood.gates.base import Group, Observation, Tally, Users
from lastgood.gates.gate import GateState
from lastgood.service import gates

ERRORS = gates.ErrorRate(metric="error_rate")
FEW = World(users=600, rate=4.0, hours=5.0, failing=2.0, activity=1.0, shares=((0.0, 0.3),))
RUNS = 12


def failed_at(world: World, seed: int) -> float | None:
    """When the gate failed (seconds), at the alpha of one gate; None if it never did."""
    track = GateState("errors", ERRORS, mode="compare", alpha=0.01, since=0.0)
    for look in user_worlds.looks(world, seed):
        # as the controller has it: what was kept is what counts
        track.take(base.observation(look.seen.to_json()), step=look.step)
        if track.verdict(look.seen.at).outcome == "fail":
            return look.seen.at
    return None


def outages_of_stable(hours: np.ndarray, watched: np.ndarray) -> np.ndarray:
    """Half an hour in which eight of ten requests of stable alone fail."""
    return np.where((hours > 1) & (hours < 1.5) & ~watched, 0.8, 0.0)


@pytest.mark.parametrize(
    "world",
    [
        pytest.param(FEW, id="few users, most failures by some of them"),
        pytest.param(dataclasses.replace(FEW, shares=((0.0, 0.05), (3600.0, 0.25), (7200.0, 0.5))), id="a ramp"),
        pytest.param(dataclasses.replace(FEW, speed=2.0), id="a candidate that draws more requests"),
        pytest.param(dataclasses.replace(FEW, bot=0.3, bot_fails=0.05), id="a bot with a third of the requests"),
        pytest.param(dataclasses.replace(FEW, level=outages_of_stable), id="an outage of stable alone"),
    ],
)
def test_equal_bundles_stay(world: World) -> None:
    """Counted by request, this takes out one release of six or more in the first worlds."""
    out = [seed for seed in range(RUNS) if failed_at(world, seed) is not None]
    assert len(out) <= 1, out


def test_counted_by_request_users_are_taken_for_evidence() -> None:
    """What the test above would not tell if its worlds were harmless: the same requests without their keys."""
    out = [seed for seed in range(RUNS) if failed_at(dataclasses.replace(FEW, keys=False), seed) is not None]
    assert len(out) >= 2


@pytest.mark.parametrize(
    ("world", "most_s"),
    [
        (World(hours=1.0, look_s=10.0, harm=lambda _, watched: np.where(watched, 10.0, 1.0)), 1800.0),
        (World(hours=1.0, look_s=10.0, always=0.05, shares=((0.0, 0.2),)), 1800.0),
    ],
)
def test_bad_bundles_go(world: World, most_s: float) -> None:
    """Ten times the errors, and one user in twenty for whom it always fails."""
    for seed in range(4):
        at = failed_at(world, seed)
        assert at is not None
        assert at < most_s


def seen(*, users: Users | None, n: int = 400, bad: int = 4) -> Observation:
    """An hour of both arms."""
    return Observation(at=3600.0, watched=Tally(n=n, bad=bad), beside=Tally(n=4 * n, bad=4 * bad), users=users)


def verdict(*observations: Observation) -> base.Verdict:
    """What the gate says of them."""
    track = GateState("errors", gates.ErrorRate(metric="error_rate", margin=0.05), mode="compare", alpha=0.01, since=0.0)
    for one in observations:
        track.take(one)
    return track.verdict(observations[-1].at)


def test_a_pass_needs_users_not_only_requests() -> None:
    """A few users may be like nobody else; with enough of them the same requests pass, and the story counts them."""
    groups = tuple(Group(group, 20, 0, 80, 0) for group in range(20))
    few = verdict(seen(users=Users(share=0.2, groups=groups, seen=19, seen_beside=90)))
    assert few.outcome == "inconclusive"
    assert "19 users on the smaller arm; 20 are needed" in few.why
    many = verdict(seen(users=Users(share=0.2, groups=groups, seen=1210, seen_beside=4000)))
    assert many.outcome == "pass"
    assert "0 of 1,210 users failed on it" in many.why


def test_few_users_among_many_requests_without_a_key_hold_nothing_up() -> None:
    """Where less than half of the requests have a key, those without decide what can be excluded."""
    groups = tuple(Group(group, 5, 0, 20, 0) for group in range(20))
    said = verdict(seen(users=Users(share=0.2, groups=groups, seen=3, seen_beside=9)))
    assert said.outcome == "pass"


def test_failures_that_clump_by_user_are_worth_less_for_a_pass() -> None:
    """The same rate, spread over users and of one of them."""
    even = tuple(Group(group, 20, 1, 80, 1) for group in range(20))
    one = tuple(Group(group, 20, 20 if group == 0 else 0, 80, 1) for group in range(20))
    widths = []
    for groups in (even, one):
        said = verdict(seen(bad=20, users=Users(share=0.2, groups=groups, seen=500, seen_beside=2000)))
        assert said.interval is not None
        widths.append(said.interval[1] - said.interval[0])
    assert widths[1] > 1.5 * widths[0]


@pytest.mark.parametrize(
    "users",
    [
        Users(share=0.0),
        Users(share=float("nan")),
        Users(share=0.5, groups=(Group(99, 1, 0, 0, 0),)),
        Users(share=0.5, groups=(Group(1, 1, 2, 0, 0),)),
    ],
)
def test_impossible_users_are_a_source_that_is_down(users: Users) -> None:
    """Nothing of such an observation counts."""
    said = verdict(seen(users=users))
    assert (said.outcome, said.n) == ("inconclusive", 0)
    assert "impossible" in said.why


def test_what_is_kept_of_users_is_what_was_seen() -> None:
    """Through JSON and back, whole and empty."""
    full = Users(
        share=0.2, failed=(base.Failure("a1", True), base.Failure("b2", False)), groups=(Group(3, 5, 1, 9, 0),), seen=7, seen_beside=30
    )
    for users in (full, Users(share=0.1), None):
        one = seen(users=users)
        assert base.observation(one.to_json()) == one

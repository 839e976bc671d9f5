"""Worlds of users: how often each sends requests, whose requests fail, and each user's arm; as the gates see them.

One run is one release of some hours. Arms are drawn per user, as in the proxy, and a user stays on its arm.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lastgood.gates.base import GROUPS, Failure, Group, Observation, Tally, Users

Floats = NDArray[np.float64]
HOUR_S = 3600.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The parameters. *rate* requests per second by *users*, split by *shares* (start time in s, the candidate's share).

    `activity` and `failing` are the sigma of the lognormal spread of users' request rates and error rates; *base* is the mean error
    rate. `harm(hours, candidate)` multiplies the error rate, `level(hours, candidate)` is an error rate that applies to everybody in
    addition (an outage). The candidate's users send *speed* times as many requests. Of all requests *bot* come from one user. A user
    has a new id every *session_h* hours. *flood* ids a second come once each and never fail by themselves.
    """

    rate: float = 7.0
    users: int = 10_000
    hours: float = 12.0
    shares: Sequence[tuple[float, float]] = ((0.0, 0.05),)
    base: float = 0.005
    activity: float = 0.0
    failing: float = 0.0
    harm: Callable[[Floats, NDArray[np.bool_]], Floats] | None = None
    level: Callable[[Floats, NDArray[np.bool_]], Floats] | None = None
    always: float = 0.0
    """Share of the users whose every request fails on the candidate."""
    speed: float = 1.0
    bot: float = 0.0
    bot_fails: float = 0.0
    session_h: float | None = None
    diurnal: float = 0.0
    keys: bool = True
    look_s: float = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """One observation, and the number of the phase in which it was made."""

    seen: Observation
    step: int


def looks(world: World, seed: int) -> Iterator[Look]:
    """One run, look by look, from time 0."""
    rng = np.random.default_rng(seed)
    at, user, place = _requests(world, rng)
    share, step = _shares(world, at)
    watched = place < share
    kept = rng.random(len(at)) < np.where(watched, min(world.speed, 1.0), min(1.0, 1 / world.speed)) if world.speed != 1 else slice(None)
    at, user, watched, share, step = at[kept], user[kept], watched[kept], share[kept], step[kept]
    failed = rng.random(len(at)) < _chance(world, rng, at, user, watched)
    yield from _observed(world, at, user, watched, failed)


def _requests(world: World, rng: np.random.Generator) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Times, users and the users' places in the draw, of all requests that would arrive at the higher of the two speeds."""
    number = rng.poisson(world.rate * world.hours * HOUR_S * max(world.speed, 1.0))
    at = np.sort(_times(world, rng, number))
    weight = np.exp(world.activity * rng.standard_normal(world.users))
    if world.bot:
        weight[0] = weight[1:].sum() * world.bot / (1 - world.bot)
    edges = np.cumsum(weight)
    user = np.searchsorted(edges, rng.random(number) * edges[-1])
    if world.session_h:
        # each user's sessions begin at different moments
        user = user + world.users * np.floor(at / (world.session_h * HOUR_S) + (user * 0.618) % 1).astype(np.int64)
    places = rng.random(int(user.max(initial=0)) + 1)
    return at, user, places[user]


def _times(world: World, rng: np.random.Generator, number: int) -> Floats:
    if not world.diurnal:
        return rng.random(number) * world.hours * HOUR_S
    grid = np.linspace(0, world.hours, 2000)
    heights = np.cumsum(1 + world.diurnal * np.sin(2 * math.pi * grid / 24))
    return np.asarray(np.interp(rng.random(number) * heights[-1], heights, grid * HOUR_S))


def _shares(world: World, at: Floats) -> tuple[Floats, NDArray[np.int64]]:
    begins = np.array([begin for begin, _ in world.shares])
    step = np.searchsorted(begins, at, side="right") - 1
    return np.array([share for _, share in world.shares])[step], step


def _chance(world: World, rng: np.random.Generator, at: Floats, user: NDArray[np.int64], watched: NDArray[np.bool_]) -> Floats:
    person = user % world.users
    own = world.base * np.exp(world.failing * rng.standard_normal(world.users) - world.failing**2 / 2)
    if world.bot:
        own[0] = world.bot_fails or world.base
    chance = own[person]
    if world.harm is not None:
        chance = chance * world.harm(at / HOUR_S, watched)
    if world.always:
        chance = np.where(watched & (person < world.always * world.users), 1.0, chance)
    if world.level is not None:
        chance = np.maximum(chance, world.level(at / HOUR_S, watched))
    return np.asarray(np.minimum(chance, 1.0))


def _observed(world: World, at: Floats, user: NDArray[np.int64], watched: NDArray[np.bool_], failed: NDArray[np.bool_]) -> Iterator[Look]:
    number = math.ceil(world.hours * HOUR_S / world.look_s)
    look = np.minimum((at / world.look_s).astype(int), number - 1)
    group = (user * 2_654_435_761 >> 7) % GROUPS
    cell = look * GROUPS + group
    size = number * GROUPS
    counts = [
        np.bincount(cell[arm], weights=of[arm].astype(float) if of is not None else None, minlength=size)
        .astype(int)
        .reshape(number, GROUPS)
        for arm in (watched, ~watched)
        for of in (None, failed)
    ]
    first = _firsts(user, watched, look=look, looks=number)
    who = np.flatnonzero(failed)
    bounds = np.searchsorted(look[who], np.arange(number + 1))
    n, bad, n_beside, bad_beside = counts
    for i in range(number):
        end = (i + 1) * world.look_s
        inside = who[bounds[i] : bounds[i + 1]]
        share, step = _shares(world, np.array([end - world.look_s]))
        arms = Tally(n=int(n[i].sum()), bad=int(bad[i].sum())), Tally(n=int(n_beside[i].sum()), bad=int(bad_beside[i].sum()))
        users = None
        if world.keys:
            failures = {int(user[one]): bool(watched[one]) for one in inside}
            users = Users(
                share=float(share[0]),
                failed=tuple(Failure(str(one), arm) for one, arm in failures.items()),
                groups=tuple(Group(g, int(n[i, g]), int(bad[i, g]), int(n_beside[i, g]), int(bad_beside[i, g])) for g in range(GROUPS)),
                seen=int(first[0][i]),
                seen_beside=int(first[1][i]),
            )
        yield Look(Observation(at=end, watched=arms[0], beside=arms[1], share=float(share[0]), users=users), int(step[0]))


def _firsts(
    user: NDArray[np.int64], watched: NDArray[np.bool_], *, look: NDArray[np.int64], looks: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many users each arm had seen by the end of each look."""
    seen = []
    for arm in (watched, ~watched):
        _, first = np.unique(user[arm], return_index=True)
        seen.append(np.cumsum(np.bincount(look[arm][first], minlength=looks)))
    return seen[0], seen[1]

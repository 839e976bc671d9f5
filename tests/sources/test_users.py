"""Users behind the requests of a comparison: counted on their arm, named once when they failed, and named again if that was not kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pytest

from lastgood.gates.base import Failure, Users
from lastgood.layers.traffic.envoy import requests as envoy_requests
from lastgood.layers.traffic.envoy.requests import Place
from lastgood.service import gates
from lastgood.sources import base
from lastgood.sources import envoy as source_
from lastgood.sources import users as users_
from lastgood.sources.users import NAME_DIGITS, Census, Judged
from tests.sources.lines import A, B, line

ERRORS = gates.ErrorRate(metric="error_rate")


def name(user: str) -> str:
    """As the proxy names a user: 16 hex digits."""
    return hashlib.sha256(user.encode()).hexdigest()[:16]


def judged(*users: str, failed: bool = False) -> list[Judged]:
    """A request of each; of nobody if the user is empty."""
    found = [envoy_requests.parse(line(B.id, user=name(user) if user else None)) for user in users]
    return [Judged(request, failed, failed) for request in found if request is not None]


def place(offset: int) -> Place:
    """Somewhere in the log."""
    return Place(file="f", first=1.0, offset=offset)


def taken(census: Census, watched: Iterable[Judged] = (), beside: Iterable[Judged] = (), *, at: int, share: float = 0.2) -> Users:
    """The look that ends at *at*, after the one that ended one before."""
    return census.take(watched, beside, share=share, since=place(at - 1), end=place(at))


def failures(*users: str, watched: bool) -> set[Failure]:
    """These users as they are named."""
    return {Failure(name(user)[:NAME_DIGITS], watched) for user in users}


def test_requests_are_summed_by_group_and_those_without_a_user_by_none() -> None:
    """One user is in one group, whatever it does; the arms stay apart."""
    seen = taken(Census(), judged("a", "a", "", "b") + judged("a", failed=True), judged("c", "c", ""), at=1)
    assert (sum(group.n for group in seen.groups), sum(group.bad for group in seen.groups)) == (4, 1)
    assert sum(group.n_beside for group in seen.groups) == 2
    assert (seen.seen, seen.seen_beside, seen.share) == (2, 1, 0.2)
    (of_a,) = {group.group for group in seen.groups if group.bad}
    assert next(group for group in seen.groups if group.group == of_a).n >= 3


def test_who_failed_is_named_once_at_each_share() -> None:
    """A user who fails all day is one word in the ledger, and one more with each step of the release."""
    census = Census()
    assert set(taken(census, judged("a", "a", failed=True), judged("b", failed=True), at=1).failed) == failures(
        "a", watched=True
    ) | failures("b", watched=False)
    assert taken(census, judged("a", failed=True), at=2).failed == ()
    assert set(taken(census, judged("a", "c", failed=True), at=3).failed) == failures("c", watched=True)
    assert set(taken(census, judged("a", failed=True), at=4, share=0.5).failed) == failures("a", watched=True)


def test_a_look_that_was_not_kept_names_its_users_again() -> None:
    """The ledger was away, or another controller's measurement came first: the next look begins where the last kept one ended."""
    census = Census()
    taken(census, judged("a", failed=True), at=1)
    lost = census.take(judged("b", failed=True), (), share=0.2, since=place(1), end=place(2))
    again = census.take(judged("b", "a", failed=True), (), share=0.2, since=place(1), end=place(3))
    assert set(lost.failed) == set(again.failed) == failures("b", watched=True)


def test_invented_ids_that_fail_do_not_fill_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more are named than a gate remembers, of either arm alike, however many come at one look or at many."""
    monkeypatch.setattr(users_, "MOST_USERS", 40)
    census = Census()
    some = [f"a{number}" for number in range(60)]
    first = taken(census, judged(*some[:30], failed=True), judged(*some[30:], failed=True), at=1)
    assert len(first.failed) == 40
    assert {one.user for one in first.failed} == set(sorted(name(user)[:NAME_DIGITS] for user in some)[:40])
    assert taken(census, judged("b", failed=True), at=2).failed == ()
    assert len(taken(census, judged("b", failed=True), at=3, share=0.5).failed) == 1


def test_a_user_on_both_arms_counts_where_it_failed_first() -> None:
    """At one look; what comes later of it is told too, and the gate knows that it counts once."""
    seen = taken(Census(), judged("a", failed=True), judged("a", failed=True), at=1)
    assert set(seen.failed) == failures("a", watched=True)


def test_only_an_error_rate_of_live_arms_with_a_share_has_users() -> None:
    """Copies, the split and an arm alone are counted by request."""
    source = source_.EnvoySource.__new__(source_.EnvoySource)
    source._users = None
    has = base.MeasurementRequest(gate=ERRORS, watched=B.id, beside=A.id, weight=0.2)
    census = source._census(has)
    assert census is not None
    assert source._census(base.MeasurementRequest(gate=ERRORS, watched=B.id, beside=A.id, weight=0.5)) is census, (
        "the same release, a step later"
    )
    assert source._census(base.MeasurementRequest(gate=ERRORS, watched=B.id, beside=A.id, weight=0.2, since=9.0)) is not census
    for asked in (
        base.MeasurementRequest(gate=ERRORS, watched=B.id, beside=A.id, mirrored=True),
        base.MeasurementRequest(gate=ERRORS, watched=B.id, beside=None),
        base.MeasurementRequest(gate=gates.SampleRatio(metric="sample_ratio"), watched=B.id, beside=A.id, weight=0.2),
    ):
        assert source._census(asked) is None

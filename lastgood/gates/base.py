"""The values that go through a gate: what was seen of the two arms, and what that comes to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from lastgood.system import plain

MAX_DETAIL = 1000
"""Characters that are kept of what a source says to people."""

VerdictOutcome = Literal["pass", "fail", "inconclusive"]

Cause = Literal[
    "sequential",  # fail: the evidence crossed its boundary
    "persistence",  # fail: over the threshold for enough windows in a row
    "events",  # fail: enough kills or ejections
    "excluded",  # pass: harm beyond the threshold is excluded
    "within",  # pass: enough windows, none over the threshold lately (gauges, events)
    "both_arms",  # inconclusive: stable is over the threshold as well, so the candidate is not to blame
    "no_traffic",  # inconclusive
    "source_down",  # inconclusive
    "too_few",  # inconclusive
]

Mode = Literal["compare", "alone"]
"""compare: candidate against the stable bundle that serves beside it. alone: one bundle against a limit."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What one arm did between two looks.

    `n` requests, rows or probes; `bad` of them failed, were slower than the ceiling, or disagreed; `total` is the sum
    of a score over them; `value` is a gauge (a query's result, kills so far), or the arm's P99 in ms for display.
    Only shown, never judged: `user_errors` is how many of the n got an error as their answer in the end (None: not known),
    `copies` how many answers to copies of requests there were, which nobody got.
    """

    n: int = 0
    bad: int = 0
    total: float = 0.0
    value: float | None = None
    user_errors: int | None = None
    copies: int = 0


EMPTY = Tally()

GROUPS = 20
"""Groups of users, by hash, whose requests are summed apart: enough to tell the spread between users, few enough to keep."""


class Failure(NamedTuple):
    """A user (a hash of its key) that had a failed request on its arm, however many they were."""

    user: str
    watched: bool


class Group(NamedTuple):
    """Requests of one group of users on both arms, and how many of them failed."""

    group: int
    n: int = 0
    bad: int = 0
    n_beside: int = 0
    bad_beside: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """What callers whose key puts them on an arm did since the last look.

    `share` of all such users belong to the watched arm, 0 to 1. `failed` are those with a failed request, each at most once; who is
    named again at a later look is not counted again. `groups` have their requests; those of the observation's tallies that are
    in no group came without a key. `seen` and `seen_beside` are how many users there were on each arm so far, at least.
    """

    share: float
    failed: tuple[Failure, ...] = ()
    groups: tuple[Group, ...] = ()
    seen: int = 0
    seen_beside: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a source saw of one gate's metric since it was last asked; `at` is the end of that time in Unix seconds.

    `watched` is the arm that is judged (the candidate; stable itself if it is alone), `beside` the stable arm that
    served at the same time, None if there is none. `share` is the watched arm's configured share of both, 0 to 1.
    `down` means that the source did not answer, with `detail` for people. An observation of a score is one block. `users` is None where
    every request is put on an arm by itself.
    """

    at: float
    watched: Tally = EMPTY
    beside: Tally | None = None
    share: float | None = None
    users: Users | None = None
    down: bool = False
    detail: str = ""

    def __post_init__(self) -> None:
        # It may hold what another program said, and may become the reason of a rollback, which the ledger must take.
        object.__setattr__(self, "detail", plain.printable(self.detail)[:MAX_DETAIL])

    def to_json(self) -> dict[str, Any]:
        """As it is kept in the ledger, without what is empty."""
        value: dict[str, Any] = {"at": self.at, "watched": _lean(self.watched)}
        if self.beside is not None:
            value["beside"] = _lean(self.beside)
        if self.users is not None:
            value["users"] = _lean_users(self.users)
        for name in ("share", "down", "detail"):
            if getattr(self, name):
                value[name] = getattr(self, name)
        return value


def observation(value: Mapping[str, Any]) -> Observation:
    """The observation that `Observation.to_json` made."""
    fields = {name: value[name] for name in ("at", "share", "down", "detail") if name in value}
    beside = _tally(value["beside"]) if "beside" in value else None
    users = _users(value["users"]) if "users" in value else None
    return Observation(**fields, watched=_tally(value["watched"]), beside=beside, users=users)


def _lean_users(users: Users) -> dict[str, Any]:
    """Arms apart, so that no flag stands with each user."""
    ids = {arm: [one.user for one in users.failed if one.watched == (arm == "watched")] for arm in ("watched", "beside")}
    value = {
        "share": users.share,
        "seen": [users.seen, users.seen_beside],
        "failed": ids,
        "groups": [list(group) for group in users.groups],
    }
    return {key: kept for key, kept in value.items() if kept and kept not in ([0, 0], {"watched": [], "beside": []})}


def _users(value: Mapping[str, Any]) -> Users:
    ids = value.get("failed", {})
    failed = tuple(Failure(user, arm == "watched") for arm in ("watched", "beside") for user in ids.get(arm, ()))
    seen, seen_beside = value.get("seen", (0, 0))
    groups = tuple(Group(*group) for group in value.get("groups", ()))
    return Users(share=value.get("share", 0.0), failed=failed, groups=groups, seen=seen, seen_beside=seen_beside)


_FIELDS = frozenset(field.name for field in dataclasses.fields(Tally))


def _tally(value: Mapping[str, Any]) -> Tally:
    """A field that only a newer release knows is left out: after a downgrade its measurements are still there."""
    return Tally(**{name: value[name] for name in value if name in _FIELDS})


def _lean(tally: Tally) -> dict[str, Any]:
    return {
        key: value for key, value in dataclasses.asdict(tally).items() if value is not None and (value or key in ("value", "user_errors"))
    }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one gate says now.

    `estimate` is the watched arm's figure, `reference` the other arm's or the limit, `interval` a confidence sequence for
    the difference of the two at the gate's confidence, all in the metric's own unit. `evidence` is log10 of the
    e-value against "no worse", `boundary` log10 of what it must reach to fail the gate; None for gates without one.
    `streak` of `persistence` windows in a row are over the threshold. `needs` is about how many more requests of the
    watched arm a verdict needs, `needs_s` how many seconds that is at the present rate; None if unknown.
    `since` is since when it has been inconclusive for the same cause (Unix seconds), for the policies. `user_errors` of the n
    requests were answered with an error in the end, whoever gave it (None: not known, as for copies); `copies` were answered
    besides or instead, and nobody got those answers.
    """

    gate: str
    metric: str
    kind: Literal["guardrail", "signal", "observe"]
    outcome: VerdictOutcome
    cause: Cause
    why: str
    at: float
    n: int = 0
    n_beside: int | None = None
    estimate: float | None = None
    reference: float | None = None
    interval: tuple[float, float] | None = None
    evidence: float | None = None
    boundary: float | None = None
    streak: int = 0
    persistence: int = 0
    needs: int | None = None
    needs_s: float | None = None
    since: float | None = None
    user_errors: int | None = None
    copies: int = 0

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def verdict(value: Mapping[str, Any]) -> Verdict | None:
    """The verdict that `Verdict.to_json` made; None if it is in a form that this release does not know."""
    try:
        interval = value.get("interval")
        return Verdict(**{**value, "interval": tuple(interval) if interval else None})
    except (TypeError, AttributeError):
        return None

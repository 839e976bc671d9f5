"""The values that pass through a gate: observations of the two arms, and the resulting verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from lastgood.system import plain

MAX_DETAIL = 1000
"""Most characters kept of a source's message for people."""

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
"""compare: the candidate against the stable bundle that serves at the same time. alone: one bundle against a limit."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What one arm did between two looks.

    `n` requests, rows or probes; `bad` of them failed, were slower than the ceiling, or disagreed; `total` is the sum
    of a score over them; `value` is a gauge (a query's result, kills so far), or the arm's P99 in ms for display.
    For display only, never judged: `user_errors` is how many of the n finally got an error as their answer (None: unknown),
    `copies` is the number of answers to mirrored copies of requests, which were discarded.
    """

    n: int = 0
    bad: int = 0
    total: float = 0.0
    value: float | None = None
    user_errors: int | None = None
    copies: int = 0


EMPTY = Tally()

GROUPS = 20
"""Groups of users, by hash, whose requests are summed separately: enough to estimate the spread between users, few enough to store."""


class Failure(NamedTuple):
    """A user (a hash of its key) with at least one failed request on its arm."""

    user: str
    watched: bool


class Group(NamedTuple):
    """The requests of one group of users on both arms, and how many of them failed."""

    group: int
    n: int = 0
    bad: int = 0
    n_beside: int = 0
    bad_beside: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """What users with a key that assigns them to an arm did since the last look.

    The watched arm has the fraction `share` of all such users, 0 to 1. `failed` are those with a failed request, each at most once; a user
    named again at a later look is not counted again. `groups` have their requests; those of the observation's tallies that are
    in no group came without a key. `seen` and `seen_beside` are lower bounds of the number of users on each arm so far.
    """

    share: float
    failed: tuple[Failure, ...] = ()
    groups: tuple[Group, ...] = ()
    seen: int = 0
    seen_beside: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a source measured of one gate's metric since the last query; `at` is the end of that period in Unix seconds.

    `watched` is the arm that is judged (the candidate, or stable itself in mode alone), `beside` the stable arm that
    served at the same time, None if there is none. `share` is the watched arm's configured share of both, 0 to 1.
    `down` means that the source did not answer, with `detail` for people. An observation of a score is one block. `users` is None where
    each request is assigned to an arm individually.
    """

    at: float
    watched: Tally = EMPTY
    beside: Tally | None = None
    share: float | None = None
    users: Users | None = None
    down: bool = False
    detail: str = ""

    def __post_init__(self) -> None:
        # The text may come from another program and may become the reason of a rollback, which the ledger must accept.
        object.__setattr__(self, "detail", plain.printable(self.detail)[:MAX_DETAIL])

    def to_json(self) -> dict[str, Any]:
        """The form stored in the ledger, without empty fields."""
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
    """The observation from the output of `Observation.to_json`."""
    fields = {name: value[name] for name in ("at", "share", "down", "detail") if name in value}
    beside = _tally(value["beside"]) if "beside" in value else None
    users = _users(value["users"]) if "users" in value else None
    return Observation(**fields, watched=_tally(value["watched"]), beside=beside, users=users)


def _lean_users(users: Users) -> dict[str, Any]:
    """The two arms as separate lists, which saves a flag for each user."""
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
    """Fields known only to a newer release are dropped: after a downgrade, its measurements are still in the ledger."""
    return Tally(**{name: value[name] for name in value if name in _FIELDS})


def _lean(tally: Tally) -> dict[str, Any]:
    return {
        key: value for key, value in dataclasses.asdict(tally).items() if value is not None and (value or key in ("value", "user_errors"))
    }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The current judgement of one gate.

    `estimate` is the watched arm's figure, `reference` the other arm's or the limit, `interval` a confidence sequence for
    their difference at the gate's confidence, all in the metric's own unit. `evidence` is log10 of the
    e-value against "no worse", `boundary` log10 of the value at which the gate fails; None for gates without one.
    `streak` of `persistence` windows in a row are over the threshold. `needs` is roughly how many more requests of the
    watched arm a verdict requires, `needs_s` how many seconds that takes at the current rate; None if unknown.
    `since` is when it became inconclusive for its present cause (Unix seconds), for the policies. `user_errors` of the n
    requests finally got an error as their answer, from whichever arm (None: unknown, as for copies); `copies` were answered
    additionally or instead, and those answers were discarded.
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
    """The verdict from the output of `Verdict.to_json`; None if this release does not know its form."""
    try:
        interval = value.get("interval")
        return Verdict(**{**value, "interval": tuple(interval) if interval else None})
    except (TypeError, AttributeError):
        return None

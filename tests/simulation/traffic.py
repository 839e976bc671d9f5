"""Requests, and how each bundle answers them: drawn per tick, counted as a proxy and an inference log count them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

SLOW_MS = 500.0
"""The ceiling of the latency gates of these worlds; `slow` counts what takes longer."""

SCORE_SD = 0.15


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How a bundle behaves: probabilities for each request, the mean of its score, kills for want of memory in a minute.

    `late_s` is for how many seconds it is good once it has all the traffic. `shows` are the metrics that must find it out.
    """

    name: str
    bad: float = 0.005
    slow: float = 0.001
    score: float = 0.2
    differ: float = 0.01
    kills_per_min: float = 0.0
    ready: bool = True
    late_s: float | None = None
    shows: frozenset[str] = frozenset()

    @property
    def sound(self) -> bool:
        """Whether nothing is ever wrong with it."""
        return not self.shows and self.ready


def _profile(name: str, *shows: str, **how: float) -> Profile:
    return Profile(name=name, shows=frozenset(shows), **how)  # type: ignore[arg-type]


PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(name="good"),
        _profile("errors", "error_rate", bad=0.05),
        _profile("refuses", "error_rate", bad=1.0),
        _profile("slow", "latency_p99", slow=0.2),
        _profile("worse", "score", score=0.35),
        _profile("differs", "agreement", differ=0.4),
        _profile("hangs", "error_rate", "latency_p99", bad=1.0, slow=1.0),
        _profile("oom", "oom_kills", bad=0.1, kills_per_min=3.0),
        _profile("late", "error_rate", bad=0.05, late_s=60.0),
        Profile(name="stuck", ready=False),
    )
}


@dataclasses.dataclass(slots=True)
class Counters:
    """What one bundle has counted since its counters began. Live requests, copies of requests, and pairs of both arms' answers."""

    n: int = 0
    bad: int = 0
    slow: int = 0
    total: float = 0.0
    copies: int = 0
    copies_bad: int = 0
    copies_slow: int = 0
    pairs: int = 0
    pairs_total: float = 0.0
    pairs_total_beside: float = 0.0
    differ: int = 0


class Traffic:
    """All users of a service, and its workers' health."""

    def __init__(self, seed: int, *, rate: float, profiles: Mapping[str, Profile]) -> None:
        self._draw = np.random.default_rng(seed)
        self.rate = rate
        self.profiles = dict(profiles)
        self.stopped = self.outage = self.starved = False
        self.counters: dict[str, Counters] = {}
        self.kills: dict[str, float] = {}
        self._alone_s: dict[str, float] = {}
        self.alone: str | None = None
        """The bundle that had all requests in the last tick."""

    def reset(self) -> None:
        """Counters begin anew, as after a restart of the proxy."""
        self.counters = {}

    def flow(self, seconds: float, *, weights: Mapping[str, float], mirror: tuple[str, float] | None) -> None:
        """What happens in *seconds* with the traffic split as the gateway has it."""
        requests = 0 if self.stopped else int(self._draw.poisson(self.rate * seconds))
        left, weight_left = requests, 100.0
        self.alone = next(iter(weights)) if len(weights) == 1 else None
        for bundle, weight in weights.items():
            share = 0.0 if self.starved and len(weights) > 1 and left == requests and weight < 100 else weight / weight_left
            n = left if share >= 1 else int(self._draw.binomial(left, share)) if left else 0
            left, weight_left = left - n, weight_left - weight
            self._answer(bundle, n, seconds=seconds, alone=self.alone == bundle)
        if mirror is not None and requests:
            stable = [bundle for bundle in weights if bundle != mirror[0]]
            self._copy(mirror[0], stable[-1] if stable else None, int(self._draw.binomial(requests, mirror[1] / 100)))

    def profile(self, bundle: str) -> Profile:
        """How *bundle* behaves at this moment."""
        known = self.profiles[bundle]
        if known.late_s is not None and self._alone_s.get(bundle, 0.0) <= known.late_s:
            return PROFILES["good"]
        return known

    def _bad(self, profile: Profile) -> float:
        return min(1.0, profile.bad + (0.3 if self.outage else 0.0))

    def _answer(self, bundle: str, n: int, *, seconds: float, alone: bool) -> None:
        if alone:
            self._alone_s[bundle] = self._alone_s.get(bundle, 0.0) + seconds
        profile, count = self.profile(bundle), self.counters.setdefault(bundle, Counters())
        if profile.kills_per_min and n:
            self.kills[bundle] = self.kills.get(bundle, 0.0) + float(self._draw.poisson(profile.kills_per_min * seconds / 60))
        if not n:
            return
        count.n += n
        count.bad += int(self._draw.binomial(n, self._bad(profile)))
        count.slow += int(self._draw.binomial(n, profile.slow))
        count.total += float(self._draw.normal(n * profile.score, SCORE_SD * n**0.5))

    def _copy(self, bundle: str, beside: str | None, n: int) -> None:
        profile, count = self.profile(bundle), self.counters.setdefault(bundle, Counters())
        if not n:
            return
        if profile.kills_per_min:
            self.kills[bundle] = self.kills.get(bundle, 0.0) + 1.0
        count.copies += n
        count.copies_bad += int(self._draw.binomial(n, self._bad(profile)))
        count.copies_slow += int(self._draw.binomial(n, profile.slow))
        if beside is None:
            return
        other = self.profile(beside)
        count.pairs += n
        count.pairs_total += float(self._draw.normal(n * profile.score, SCORE_SD * n**0.5))
        count.pairs_total_beside += float(self._draw.normal(n * other.score, SCORE_SD * n**0.5))
        count.differ += int(self._draw.binomial(n, max(profile.differ, other.differ)))

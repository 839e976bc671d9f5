"""The gate on the traffic split: if the proxy does not split as configured, no comparison is meaningful."""

from __future__ import annotations

import math

from lastgood.gates import eprocess
from lastgood.gates.base import Cause, Observation
from lastgood.gates.evaluator import Family, Reading, Setup, percent
from lastgood.service import gates

SURER = 10.0
"""By how much the evidence must exceed what the gate's alpha requires: users are not dice, and one busy client is not a broken proxy."""


class Split(Family):
    """The watched arm's actual share of the requests against the configured one."""

    def __init__(self, gate: gates.SampleRatio, setup: Setup) -> None:
        self._gate = gate
        self._boundary = setup.boundary + math.log(SURER)
        self._wealth = eprocess.Wealth(eprocess.RATIO_PRIOR * 2, since=setup.since)
        self._watched = self._all = 0
        self._expected = 0.0

    def take(self, seen: Observation, *, step: int) -> None:
        """Add one observation; without a configured share, or another arm, there is no split."""
        n = seen.watched.n + (seen.beside.n if seen.beside else 0)
        if seen.beside is None or seen.share is None or not 0 < seen.share < 1 or not n:
            return
        self._watched, self._all, self._expected = self._watched + seen.watched.n, self._all + n, self._expected + n * seen.share
        bets = eprocess.outside(seen.watched.n, seen.beside.n, share=seen.share, tolerance=self._gate.tolerance)
        self._wealth.grow(bets, at=seen.at, step=step)

    def fails(self) -> Cause | None:
        return "sequential" if self._wealth.log_e >= self._boundary else None

    def read(self) -> Reading:
        if not self._all:
            return Reading(story="no traffic split observed yet", evidence=0.0, boundary=self._boundary)
        share, asked = self._watched / self._all, self._expected / self._all
        low, high = eprocess.band(asked, self._gate.tolerance)
        within = low <= share <= high
        return Reading(
            story=f"{percent(share)} of {self._all:,} requests where {percent(asked)} is requested, {percent(low)} to {percent(high)} allowed",
            harm="a split outside the allowed range",
            lacks="" if within else "the split is outside the allowed range, but not yet significantly",
            passes="within" if within and self._watched >= self._gate.min_samples else None,
            estimate=share,
            reference=asked,
            evidence=self._wealth.log_e,
            boundary=self._boundary,
            needs=max(self._gate.min_samples - self._watched, 0) if within else None,
        )

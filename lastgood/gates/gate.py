"""One gate's evidence so far, and the resulting verdict: a pure fold of observations, so equal observations give equal verdicts.

    Observation -> GateState.take -> family (error_rate | proportions | scores | gauges | sample_ratio) -> GateState.verdict -> Verdict

What does not belong here: what a verdict leads to, and the policies for inconclusive verdicts (`analysis.policy`, `core`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from lastgood.gates import eprocess, error_rate, gauges, proportions, scores
from lastgood.gates.base import EMPTY, GROUPS, Cause, Mode, Observation, Tally, Users, Verdict, VerdictOutcome
from lastgood.gates.evaluator import Family, Reading, Setup
from lastgood.gates.sample_ratio import Split
from lastgood.service import gates as service_gates


class GateState:
    """One gate over one analysis. Constant memory and time per observation, whatever the length of the analysis.

    *alpha* is this gate's share of the false-alarm budget (`budget`), ignored by gates without a statistical test; *since* is
    when the analysis began, in Unix seconds. *reference* is stable's earlier sums, for a gate in mode alone.
    `watched` and `beside` are the totals observed of the two arms, as the reference of a later analysis.

    A guardrail that has failed stays failed: its guarantee is about ever crossing the boundary. Other gates follow the current
    evidence, so that a release that they hold can continue by itself.
    """

    def __init__(
        self, name: str, gate: service_gates.AnyGate, *, mode: Mode, alpha: float, since: float, reference: Tally | None = None
    ) -> None:
        self._name, self._gate, self._since = name, gate, since
        self._family = _family(gate, Setup(mode=mode, alpha=alpha, since=since, reference=reference))
        self.watched, self.beside = EMPTY, EMPTY
        self._compared = False
        self._failed: Cause | None = None
        self._traffic_at = since
        self._down_since: float | None = None
        self._down_detail = ""
        self._both_since: float | None = None

    def looked(self, at: float) -> None:
        """Record the first look at Unix time *at*: no traffic can have been seen before, so the patience with no traffic begins then."""
        self._traffic_at = max(self._traffic_at, at)

    def take(self, observation: Observation, *, step: int = 0) -> None:
        """Add an observation from a source; *step* is the number of the phase (it grows with the share of traffic).

        An observation with an invalid figure (NaN, infinite, negative, or more bad ones than there are) counts as a source that is down.
        """
        wrong = _wrong(observation)
        if observation.down or wrong:
            if self._down_since is None:
                self._down_since = observation.at if math.isfinite(observation.at) else self._since
            self._down_detail = wrong or observation.detail
            return
        self._down_since = None
        self.watched = eprocess.joined(self.watched, observation.watched)
        if observation.beside is not None:
            self.beside, self._compared = eprocess.joined(self.beside, observation.beside), True
        if observation.watched.n:
            self._traffic_at = observation.at
        self._family.take(observation, step=step)
        self._settle(observation.at)

    def _settle(self, at: float) -> None:
        if self._gate.kind == "guardrail" and self._failed is None:
            self._failed = self._family.fails()
        if not self._family.both():
            self._both_since = None
        elif self._both_since is None:
            self._both_since = at

    @property
    def failing(self) -> Cause | None:
        """The cause for which the gate fails by now, or None. Cheaper than a complete verdict."""
        return self._failed or self._family.fails()

    def verdict(self, now: float) -> Verdict:
        """The gate's verdict at Unix time *now*. Changes nothing."""
        reading = self._family.read()
        outcome, cause, since = self._outcome(reading, now)
        needs_s = self._seconds(reading.needs, now) if outcome == "inconclusive" else None
        return Verdict(
            gate=self._name,
            metric=self._gate.metric,
            kind=self._gate.kind,
            outcome=outcome,
            cause=cause,
            why=self._why(reading, cause, since=since, now=now, needs_s=needs_s) + self._users(),
            at=now,
            n=self.watched.n,
            n_beside=self.beside.n if self._compared else None,
            estimate=reading.estimate,
            reference=reading.reference,
            interval=reading.interval,
            evidence=_log10(reading.evidence),
            boundary=_log10(reading.boundary),
            streak=reading.streak,
            persistence=reading.persistence,
            needs=reading.needs if outcome == "inconclusive" else None,
            needs_s=needs_s,
            since=since,
            user_errors=self.watched.user_errors,
            copies=self.watched.copies,
        )

    def _outcome(self, reading: Reading, now: float) -> tuple[VerdictOutcome, Cause, float | None]:
        """Failure comes first, because evidence does not disappear; then whether there is a verdict at all."""
        failed = self.failing
        if failed:
            return "fail", failed, None
        if self._down_since is not None:
            return "inconclusive", "source_down", self._down_since
        if self._both_since is not None:
            return "inconclusive", "both_arms", self._both_since
        if reading.passes:
            return "pass", reading.passes, None
        if self._family.traffic and now - self._traffic_at >= self._gate.patience_s:
            return "inconclusive", "no_traffic", self._traffic_at
        return "inconclusive", "too_few", self._since

    def _seconds(self, needs: int | None, now: float) -> float | None:
        seen = self.watched.n
        return needs * (now - self._since) / seen if needs is not None and seen and now > self._since else None

    def _users(self) -> str:
        """The effect on users, in addition to what the arm itself did."""
        if self.watched.user_errors is None or not self.watched.n:
            return ""
        return f"; users got {self.watched.user_errors:,} errors in these {self.watched.n:,} requests"

    def _why(self, reading: Reading, cause: Cause, *, since: float | None, now: float, needs_s: float | None) -> str:  # noqa: PLR0911  # one for each cause
        lasting = "" if since is None else f" for {max(now - since, 0):,.0f} s"
        match cause:
            case "sequential":
                return f"{reading.story}: evidence {_power(reading.evidence)}, boundary {_power(reading.boundary)}"
            case "persistence":
                return f"{reading.story}: over the threshold for {self._gate.persistence} windows of {self._gate.window_s:g} s in a row"
            case "excluded" | "within":
                return f"{reading.story}: {reading.harm} is excluded" if cause == "excluded" else reading.story
            case "events":
                return reading.story
            case "both_arms":
                return f"{reading.story}: stable is also over the threshold{lasting}, so the candidate is not to blame"
            case "source_down":
                return f"the source has not answered{lasting}{': ' if self._down_detail else ''}{self._down_detail}"
            case "no_traffic":
                return f"{reading.story}: no {self._family.unit}{lasting}"
            case _:
                return f"{reading.story}: {reading.lacks or self._wanted(reading, needs_s)}"

    def _wanted(self, reading: Reading, needs_s: float | None) -> str:
        if reading.needs is None:
            return f"at the present rate, {reading.harm} will not be excluded" if self.watched.n else f"no {self._family.unit} yet"
        rate = f" ({needs_s:,.0f} s at this rate)" if needs_s is not None else ""
        return f"needs about {reading.needs:,} more {self._family.unit}{rate} to exclude {reading.harm}"


def budget(gates: Mapping[str, service_gates.AnyGate], alpha: float) -> dict[str, float]:
    """Each gate's share of *alpha*, the probability that any of them blames a healthy release (union bound).

    Guardrails and signals with a statistical test share it equally. A gate that only observes is shown against the same share, at no
    cost to the others; gates without such a test (values, kills, ejections) get 0.
    """
    tested = {name for name, gate in gates.items() if isinstance(gate, TESTED)}
    deciding = [name for name in tested if gates[name].kind != "observe"]
    share = alpha / max(len(deciding), 1)
    return {name: share if name in tested else 0.0 for name in gates}


TESTED = (service_gates.ErrorRate, service_gates.LatencyP99, service_gates.Score, service_gates.Agreement, service_gates.SampleRatio)
"""Gates with an e-process, which need an alpha."""


def _family(gate: service_gates.AnyGate, setup: Setup) -> Family:  # noqa: PLR0911  # one line for each kind
    if isinstance(gate, TESTED) and not 0 < setup.alpha < 1:
        raise ValueError(f"a gate of metric {gate.metric!r} needs an alpha between 0 and 1, not {setup.alpha!r}; take it from 'budget'")
    match gate:
        case service_gates.ErrorRate():
            return error_rate.errors(gate, setup)
        case service_gates.LatencyP99():
            return proportions.latency(gate, setup)
        case service_gates.Agreement():
            return proportions.agreement(gate, setup)
        case service_gates.Score():
            return scores.scores(gate, setup)
        case service_gates.Downstream():
            return gauges.downstream(gate, setup)
        case service_gates.Query():
            return gauges.query(gate, setup)
        case service_gates.OutOfMemory():
            return gauges.Events(gate, limit=gate.max_kills, noun="out-of-memory kills")
        case service_gates.Ejections():
            return gauges.Events(gate, limit=gate.max_ejections, noun="ejections")
        case service_gates.SampleRatio():
            return Split(gate, setup)


def _wrong(observation: Observation) -> str:
    """Why *observation* is unusable, or nothing."""
    if not math.isfinite(observation.at):
        return f"non-finite time: {observation.at!r}"
    for tally in filter(None, (observation.watched, observation.beside)):
        if not all(math.isfinite(value) for value in (tally.n, tally.bad, tally.total, tally.value or 0.0)):
            return f"non-finite value: {tally!r}"
        if not 0 <= (tally.user_errors or 0) <= tally.n or tally.copies < 0:
            return f"impossible counts: {tally.user_errors!r} user errors and {tally.copies!r} copies in {tally.n!r} requests"
        if not 0 <= tally.bad <= tally.n:
            return f"impossible counts: {tally.bad!r} failures in {tally.n!r} requests"
    return "" if observation.users is None else _wrong_users(observation.users)


def _wrong_users(users: Users) -> str:
    if not (math.isfinite(users.share) and 0 < users.share < 1):
        return f"impossible share of the users: {users.share!r}"
    for group in users.groups:
        if not (0 <= group.group < GROUPS and 0 <= group.bad <= group.n and 0 <= group.bad_beside <= group.n_beside):
            return f"impossible counts: {group!r}"
    return ""


def _log10(natural: float | None) -> float | None:
    return None if natural is None else natural / math.log(10)


def _power(natural: float | None) -> str:
    return "unknown" if natural is None else f"10^{natural / math.log(10):.1f}"

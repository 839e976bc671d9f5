"""A release told on a virtual clock: real ledger, real gates, real decisions; only the traffic is made up."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lastgood import context, release
from lastgood.analysis import run as analysis_run
from lastgood.gates import base
from lastgood.release import advance
from lastgood.service import strategy
from lastgood.sources import base as sources
from lastgood.testing import projects

SERVICE = "toy"
START = 1_700_000_000.0
CHAIN = strategy.parse(
    [
        {"phase": "shadow", "min_s": 20, "max_s": 600},
        {"phase": "canary", "weight_pct": 5, "min_s": 30, "max_s": 3600},
        {"phase": "canary", "weight_pct": 25, "min_s": 30, "max_s": 3600},
    ]
)
GATES = """\
gates:
  errors: {metric: error_rate, window_s: 10, min_samples: 100}
  latency: {metric: latency_p99, max_ms: 100, window_s: 10, min_samples: 100}
"""


@dataclasses.dataclass(kw_only=True)
class Traffic:
    """Requests per second, and the share of them that fail or are slow, by bundle; `down` is when the source does not answer."""

    per_s: float = 100.0
    bad: dict[str, float] = dataclasses.field(default_factory=dict)
    slow: dict[str, float] = dataclasses.field(default_factory=dict)
    down: bool = False
    _carried: dict[Any, float] = dataclasses.field(default_factory=dict)
    _times: dict[Any, dict[str, int]] = dataclasses.field(default_factory=dict)

    def read(self, name: str, asked: sources.MeasurementRequest, *, now: float, cursor: sources.Cursor | None) -> sources.SourceReading:
        """What both arms did since the cursor, spread evenly; fractions of a request are carried on."""
        last = (cursor or {}).get("at", now)
        if self.down:
            return sources.SourceReading(observations=[base.Observation(at=now, down=True, detail="nobody answers")], cursor={"at": now})
        if asked.gate.metric in ("oom_kills", "ejections"):
            return sources.SourceReading(observations=[base.Observation(at=now, watched=base.Tally(n=1, value=0.0))], cursor={"at": now})
        share = 1.0 if asked.mirrored or asked.beside is None else asked.share or 0.0
        rest = 1.0 if asked.mirrored else 1.0 - share
        watched = self._arm(name, asked, asked.watched, (now - last) * self.per_s * share)
        beside = self._arm(name, asked, asked.beside, (now - last) * self.per_s * rest) if asked.beside else None
        made: dict[str, Any] = {"at": now}
        if asked.gate.metric == "latency_p99":
            made |= {
                arm: {"times": dict(self._times[name, digest])}
                for arm, digest in (("watched", asked.watched), ("beside", asked.beside))
                if digest
            }
        seen = [base.Observation(at=now, watched=watched, beside=beside, share=asked.share)] if now > last else []
        return sources.SourceReading(observations=seen, cursor=made)

    def _arm(self, name: str, asked: sources.MeasurementRequest, digest: str, requests: float) -> base.Tally:
        n = self._whole((name, digest, "n"), requests)
        if asked.gate.metric != "latency_p99":
            return base.Tally(n=n, bad=min(n, self._whole((name, digest, "bad"), n * self.bad.get(digest, 0.0))))
        slow = min(n, self._whole((name, digest, "slow"), n * self.slow.get(digest, 0.0)))
        counts = self._times.setdefault((name, digest), {})
        for low, count in (("12", n - slow - n // 4), ("31", n // 4), ("240", slow)):
            counts[low] = counts.get(low, 0) + max(count, 0)
        return base.Tally(n=n, bad=slow, value=250.0 if slow * 100 > n else 32.0)

    def _whole(self, key: Any, amount: float) -> int:
        total = self._carried.get(key, 0.0) + amount
        self._carried[key] = total - int(total + 1e-9)
        return int(total + 1e-9)


@dataclasses.dataclass(kw_only=True)
class Story:
    """One service whose releases are told; `now` is the virtual clock, in Unix seconds."""

    ctx: release.Context
    traffic: Traffic
    now: float = START
    bench: analysis_run.RunningAnalyses | None = None

    def __post_init__(self) -> None:
        self.ctx = self.ctx.with_clock(self.clock)

    def clock(self) -> float:
        return self.now

    def state(self) -> Any:
        return self.ctx.ledger.state(SERVICE)

    def first(self, answer: float = 1.0) -> str:
        """A bundle that is stable and proven."""
        digest = projects.build(self.ctx, answer, now=self.now)
        release.propose(self.ctx, SERVICE, digest, release.Request(actor="ann", reason="the first one"))
        for _ in range(2):
            self.now += 5
            advance.advance(self.ctx, SERVICE, ready={digest}, actor="controller")
        return digest

    def propose(self, answer: float, *, chain: strategy.Chain = CHAIN, reason: str = "better", actor: str = "ann") -> str:
        """A new candidate on its way."""
        self.now += 10
        digest = projects.build(self.ctx, answer, now=self.now)
        way = release.PhaseOverride(strategy=chain)
        release.propose(self.ctx, SERVICE, digest, release.Request(actor=actor, reason=reason), way=way)
        return digest

    def look(self) -> None:
        """One turn of the gatekeeper, a second later."""
        self.now += 1.0
        state = self.state()
        ready = {digest for digest in (state.stable, state.candidate) if digest}
        if state.phase == "preparing":
            advance.advance(self.ctx, SERVICE, ready=ready, actor="controller")
            return
        if self.bench is None:
            self.bench = analysis_run.RunningAnalyses(self.ctx.ledger, SERVICE, self.traffic)
        proposed_at = self.ctx.ledger.revision(SERVICE, state.rollout).at if state.rollout else 0.0
        asked = analysis_run.questions(state, context.judged_by(self.ctx, state), proposed_at=proposed_at, now=self.now)
        self.bench.measure(asked, now=self.now)
        verdicts, afterwards = self.bench.verdicts(self.now)
        told: Mapping[str, Any] = {"verdicts": verdicts, "judged_at": state.revision, "actor": "controller"}
        if advance.advance(self.ctx, SERVICE, ready=ready, **told) is None and state.verifying is not None:
            advance.verify(self.ctx, SERVICE, verdicts=afterwards, actor="controller")

    def go_on(self, *, until: str | None = None, seconds: int = 600) -> None:
        """Look once a second until the newest revision is by verb *until*, or for so many seconds."""
        for _ in range(seconds):
            self.look()
            if until is not None and self.ctx.ledger.history(SERVICE, limit=1)[0].verb == until:
                return
        if until is not None:
            raise AssertionError(f"{until!r} did not come within {seconds} s; last: {self.ctx.ledger.history(SERVICE, limit=1)[0]}")


@contextmanager
def begun(root: Path, *, gates: str = GATES) -> Iterator[Story]:
    """A project in *root* with one stable bundle and steady traffic."""
    settings = projects.project(root, extra=gates)
    with projects.opened(settings) as ctx:
        yield Story(ctx=ctx, traffic=Traffic())


def taken_out(story: Story) -> tuple[str, str]:
    """A candidate that begins to fail at 5 % is taken out, and stable is found recovered; returns (good, bad)."""
    good = story.first()
    bad = story.propose(2.0)
    story.traffic.bad = {good: 0.005, bad: 0.005}
    while story.state().weight_pct == 0:
        story.look()
    story.go_on(seconds=15)
    story.traffic.bad[bad] = 0.3
    story.go_on(until="rollback")
    story.go_on(until="verified")
    return good, bad

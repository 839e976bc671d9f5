"""Observations of a gate, made up: one line in a test for minutes of traffic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from lastgood.gates.base import Mode, Observation, Tally, Verdict
from lastgood.gates.gate import GateState
from lastgood.service import gates

START = 1_700_000_000.0

GATES: dict[str, gates.AnyGate] = {
    "errors": gates.ErrorRate(metric="error_rate"),
    "errors_max": gates.ErrorRate(metric="error_rate", max=0.05, kind="signal"),
    "latency": gates.LatencyP99(metric="latency_p99", max_ms=250),
    "brier": gates.Score(metric="score", score="brier", margin=0.02),
    "accuracy": gates.Score(metric="score", score="accuracy", margin=0.02, limit=0.5, kind="guardrail"),
    "agreement": gates.Agreement(metric="agreement", min=0.95),
    "health": gates.Downstream(metric="downstream", url="http://127.0.0.1:1/health"),
    "queue": gates.Query(metric="promql", query="queue{bundle='$bundle'}", margin=2.0, max=50.0),
    "oom": gates.OutOfMemory(metric="oom_kills"),
    "ejections": gates.Ejections(metric="ejections"),
    "split": gates.SampleRatio(metric="sample_ratio"),
}
"""One of every kind of gate, some twice."""


def track(gate: gates.AnyGate, *, mode: Mode = "compare", alpha: float = 0.01, reference: Tally | None = None) -> GateState:
    """A track that began at START."""
    return GateState("gate", gate, mode=mode, alpha=alpha, since=START, reference=reference)


def fed(one: GateState, seen: Iterable[Observation], *, step: int = 0) -> GateState:
    """*one*, after it has taken all of *seen*."""
    for observation in seen:
        one.take(observation, step=step)
    return one


def said(one: GateState, seen: Sequence[Observation], *, after_s: float = 0.0, step: int = 0) -> Verdict:
    """The verdict of *one* when it has taken all of *seen*, *after_s* later."""
    fed(one, seen, step=step)
    return one.verdict((seen[-1].at if seen else START) + after_s)


def every(
    looks: int, watched: Tally, beside: Tally | None = None, *, each_s: float = 10.0, after: float = 0.0, share: float | None = None
) -> list[Observation]:
    """The same seen at *looks* looks, *each_s* apart, the first one *each_s* after START + *after*."""
    return [Observation(at=START + after + each_s * (i + 1), watched=watched, beside=beside, share=share) for i in range(looks)]


def down(looks: int, *, after: float, each_s: float = 10.0, detail: str = "connection refused") -> list[Observation]:
    """A source that does not answer."""
    return [Observation(at=START + after + each_s * (i + 1), down=True, detail=detail) for i in range(looks)]


def counted(seed: int, looks: int, *, n: tuple[float, float], p: tuple[float, float], each_s: float = 10.0) -> list[Observation]:
    """Poisson numbers of requests of both arms, with mean *n* in a look and independent bad ones at rates *p*."""
    rng, seen = np.random.default_rng(seed), []
    for i in range(looks):
        sizes = [int(k) for k in rng.poisson(n)]
        arms = [Tally(n=k, bad=int(rng.binomial(k, rate))) for k, rate in zip(sizes, p, strict=True)]
        seen.append(Observation(at=START + each_s * (i + 1), watched=arms[0], beside=arms[1]))
    return seen


def scored(
    seed: int, blocks: int, *, n: tuple[int, int], mean: tuple[float, float], sd: float = 0.2, paired: bool = False, each_s: float = 60.0
) -> list[Observation]:
    """Blocks of *n* rows of each arm with normal scores around *mean*; *paired*: the same rows, of which both miss the same part."""
    rng, seen = np.random.default_rng(seed), []
    for i in range(blocks):
        rows = rng.normal(0, sd, n[1])
        own = rows + rng.normal(0, sd / 10, n[1]) if paired else rng.normal(0, sd, n[0])
        arms = [Tally(n=len(one), total=float(one.sum() + len(one) * middle)) for one, middle in zip((own, rows), mean, strict=True)]
        seen.append(Observation(at=START + each_s * (i + 1), watched=arms[0], beside=arms[1]))
    return seen


def anything(seed: int, looks: int) -> list[tuple[int, Observation]]:
    """(step, observation): all that a source may say, in sensible and odd proportions; figures for every kind of gate at once."""
    rng, at, seen = np.random.default_rng(seed), START, []
    for i in range(looks):
        at += float(rng.choice([1.0, 10.0, 60.0, 300.0, -300.0], p=[0.3, 0.4, 0.26, 0.02, 0.02]))
        if rng.random() < 0.05:
            seen.append((i * 3 // looks, Observation(at=at, down=True, detail="no answer")))
            continue
        watched, beside = (_arm(rng, mean) for mean in (rng.choice([0, 5, 40]), rng.choice([0, 60, 300])))
        seen.append((i * 3 // looks, Observation(at=at, watched=watched, beside=None if rng.random() < 0.05 else beside, share=0.1)))
    return seen


def _arm(rng: np.random.Generator, mean: float) -> Tally:
    n = int(rng.poisson(mean))
    value = [None, 0.0, float("nan"), float(rng.integers(0, 60))][int(rng.choice(4, p=[0.5, 0.2, 0.02, 0.28]))]
    return Tally(n=n, bad=int(rng.binomial(n, 0.03)), total=float(rng.gamma(max(n, 1) * 0.8)) if n else 0.0, value=value)

"""The numpy twins that the measurements use say what `GateState` says, look by look: evidence, and whether the gate fails."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench import gate_rules as rules
from bench import gate_sims as sims
from bench import gate_twin as twin
from lastgood.gates.base import Observation, Tally
from lastgood.gates.gate import GateState
from lastgood.service import gates

RUNS, LOOKS = 6, 400
STARTS = 1_700_000_000.0
RAMP = ((0.0, 0.05), (1800.0, 0.25), (5000.0, 0.5))

ERRORS = gates.ErrorRate(metric="error_rate")
LATENCY = gates.LatencyP99(metric="latency_p99", max_ms=100)
SCORE = gates.Score(metric="score", score="brier", margin=0.01, kind="guardrail")


def tally(n: float, figure: float, *, scored: bool) -> Tally:
    """One arm's entry of a run as the gate takes it."""
    return Tally(n=int(n), total=float(figure)) if scored else Tally(n=int(n), bad=int(figure))


def both(gate, made, draw: sims.Draw, *, rate: float, alpha: float = 0.05, look_s: float = 20.0, paired: bool = False, seed: int = 1):
    """Fail the test at the first look at which a run of the twin *made* differs from its GateState; gives how many runs failed in the end."""
    tracks = [GateState("g", gate, mode="compare", alpha=alpha, since=STARTS) for _ in range(RUNS)]
    failed = np.zeros(RUNS, bool)
    traffic = sims.Traffic(
        rate=rate, draw=draw, runs=RUNS, shares=RAMP, hours=LOOKS * look_s / 3600, look_s=look_s, fine_s=None, paired=paired, seed=seed
    )
    for look, (at, step, seen) in enumerate(traffic.looks()):
        by_evidence, by_windows = made.take(at, seen, step=step)
        failed |= by_evidence | by_windows
        wealth = (made.own if isinstance(made, twin.Ceiling) else getattr(made, "arms", made)).wealth
        for run, track in enumerate(tracks):
            n, n_beside, figure, figure_beside = seen[:, run]
            scored = gate is SCORE
            arms = tally(n, figure, scored=scored), tally(n_beside, figure_beside, scored=scored)
            track.take(Observation(at=STARTS + at, watched=arms[0], beside=arms[1]), step=step)
            if look % 20 and look != LOOKS - 1:
                continue
            verdict = track.verdict(STARTS + at)
            assert verdict.evidence == pytest.approx(wealth.log_e[run] / math.log(10), abs=1e-6), (look, run)
            assert (verdict.outcome == "fail") == failed[run], (look, run, verdict.why)
            assert verdict.streak == made.rows.streak[run]
    return int(failed.sum())


@pytest.mark.parametrize(
    ("draw", "rate", "expected"),
    [
        pytest.param(sims.rates(0.01, 0.01), 3.0, (0, 1), id="healthy, few requests"),
        pytest.param(sims.bursts(0.02, size=6), 20.0, (0, 6), id="bursts"),
        pytest.param(sims.rates(0.03, 0.01, since=6000.0), 10.0, (4, 6), id="worse from the last step on"),
        pytest.param(sims.rates(0.4, 0.3), 20.0, (6, 6), id="over the threshold in windows"),
    ],
)
def test_error_rates(draw: sims.Draw, rate: float, expected: tuple[int, int]):
    """Through a ramp, new bets, clumping and windows."""
    low, high = expected
    assert low <= both(ERRORS, twin.Errors(runs=RUNS, alpha=0.05), draw, rate=rate) <= high


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        pytest.param(sims.rates(0.005, 0.005), 0, id="healthy"),
        pytest.param(sims.rates(0.03, 0.03), 0, id="both arms slow"),
        pytest.param(sims.rates(0.08, 0.002), 6, id="candidate slow"),
    ],
)
def test_ceilings(draw: sims.Draw, expected: int):
    """Stable's own excess excuses the candidate in both alike."""
    assert both(LATENCY, twin.Ceiling(runs=RUNS, alpha=0.05), draw, rate=20.0) == expected


@pytest.mark.parametrize(
    ("draw", "paired", "expected"),
    [
        pytest.param(sims.skewed(0.2, 0.0), False, (0, 1), id="healthy"),
        pytest.param(sims.skewed(0.2, 0.1), False, (6, 6), id="worse"),
        pytest.param(sims.same_rows(0.2, 0.02, apart=0.05), True, (3, 6), id="worse on the same rows"),
    ],
)
def test_scores(draw: sims.Draw, paired: bool, expected: tuple[int, int]):
    """Rows of their own, and the same rows of both arms."""
    low, high = expected
    assert low <= both(SCORE, twin.Scores(runs=RUNS, alpha=0.05, margin=0.01), draw, rate=4.0, paired=paired) <= high


def test_the_uniform_mixture_is_what_it_claims():
    """The rival's formula, checked by summing over a fine grid of rates of the watched arm."""
    rule = rules.Uniform(runs=1, w=0.05, alpha=0.01)
    grid = 0.05 + 0.95 * (np.arange(200_000) + 0.5) / 200_000
    for bad, bad_beside in ((3.0, 4.0), (4.0, 4.0), (5.0, 20.0), (7.0, 20.0)):
        mean = np.mean((grid / 0.05) ** bad * ((1 - grid) / 0.95) ** bad_beside)
        rule.bad[:], rule.bad_beside[:] = bad, bad_beside
        assert rule.take(0.0, np.zeros((4, 1)), step=0)[0] == (math.log(mean) >= rule.boundary)

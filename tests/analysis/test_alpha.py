"""However a release goes, what it may spend on false alarms adds up to no more than it declares."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from lastgood.analysis import run as analysis_run
from lastgood.core.events import Advance, Approve, CutOver, Propose, Skip
from lastgood.core.state import PlannedPhase, State
from lastgood.gates import gate
from lastgood.service import schema
from tests.core.rollouts import B, after, released

SERVICE = """\
schema: lastgood.service/v1
service: flights
tier: real-time-api
owner: tests
runtime: runtime:Runtime
code: [runtime.py]
parts: [model]
traffic: {port: 8390}
release: {alpha: 0.01, strategy: %s}
gates:
  errors: {metric: error_rate, during: [shadow, canary], watch: bake}
  latency: {metric: latency_p99, max_ms: 100, during: [shadow, canary], watch: bake}
  split: {metric: sample_ratio, kind: guardrail}
"""

SHADOW = PlannedPhase(kind="shadow", mirror_pct=100.0, max_s=1000.0)
CANARIES = tuple(PlannedPhase(kind="canary", weight_pct=weight, max_s=1000.0) for weight in (5.0, 50.0))
APPROVAL = PlannedPhase(kind="approval", max_s=1000.0)
CHAINS = [
    (*shadow, *CANARIES[:canaries], *approval)
    for shadow, canaries, approval in itertools.product(((), (SHADOW,)), range(3), ((), (APPROVAL,)))
]
"""Every kind of strategy that can be written."""


def declared(chain: tuple[PlannedPhase, ...]) -> schema.Service:
    """The service whose own strategy is *chain*."""
    weights = [f"{{phase: {one.kind}{f', weight_pct: {one.weight_pct:g}' if one.kind == 'canary' else ''}}}" for one in chain]
    return schema.parse(SERVICE % f"[{', '.join(weights)}]", where="service.yaml")


def ways(chain: tuple[PlannedPhase, ...]) -> Iterator[list[State]]:
    """The states of a release of B by *chain*: passed whole, and skipped in each of its phases."""
    for passed in range(len(chain) + 1):
        state = after(released(B[:-1] + "a"), Propose(bundle=B, verified=True, chain=chain))
        states = [state]
        for phase in chain[:passed]:
            state = after(state, Advance(bundle=B))
            states.append(state)
            if phase.kind == "approval":
                state = after(state, Approve(bundle=B))
        if passed < len(chain):
            state = after(state, Skip(bundle=B, ready_s=10.0))
            states.append(state)
        yield [*states, after(state, CutOver(bundle=B, bake_s=100.0))]


@pytest.mark.parametrize("own", CHAINS, ids=lambda chain: "+".join(phase.kind for phase in chain) or "none")
def test_no_way_spends_more_than_the_release_declares(own: tuple[PlannedPhase, ...]) -> None:
    """Its own strategy or one that was named, whole or skipped: each piece of evidence once, each gate of it."""
    service = declared(own)
    for chain in CHAINS:
        for states in ways(chain):
            spent = {}
            for state in states:
                for question in analysis_run.questions(state, service, proposed_at=0.0, now=200.0):
                    shares = gate.budget(question.gates, question.alpha)
                    spent[question.key] = sum(share for name, share in shares.items() if question.gates[name].kind != "observe")
            assert spent, "a release that nobody judges tests nothing"
            assert sum(spent.values()) <= service.release.alpha * (1 + 1e-9), spent

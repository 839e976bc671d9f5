"""Faults planted into the code under test: each is found by the rule that is there for it, within a few worlds."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lastgood import testing
from lastgood.analysis import policy
from lastgood.analysis import run as analysis_run
from lastgood.core import rollback, transitions
from lastgood.core.state import State
from lastgood.gates import gate
from lastgood.layers import desired
from lastgood.release import advance
from tests.simulation import plan, watch
from tests.simulation.project import Project
from tests.simulation.world import World

WORLDS = 200
"""Worlds in which a planted fault must show."""

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What controllers log in bad times is no news here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def time_alone_passes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(policy, "_passed", lambda state, verdicts, now: now - (state.phase_since or 0.0) >= state.planned.min_s)


def inconclusive_is_fine(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(policy, "_passed", lambda state, verdicts, now: all(one.outcome != "fail" for one in verdicts.values()))


def nothing_is_ever_given_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(policy, "_late", lambda state, verdicts, now: None)


def nobody_asks_whether_it_helped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(policy, "verify", lambda state, verdicts, now: None)


def no_breaker(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rollback, "BREAKER", 99)


def no_evidence(patch: pytest.MonkeyPatch) -> None:
    real = advance._request
    patch.setattr(advance, "_request", lambda *given, **asked: dataclasses.replace(real(*given, **asked), evidence={"ready": []}))


def no_page(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rollback, "_key", lambda *_: "breaker")


def holds_hold_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(transitions, "check_not_held", lambda state: None)


def marks_mark_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(transitions, "check_may_serve", lambda state, digest: None)
    patch.setattr(rollback, "check_may_serve", lambda state, digest: None)


def stable_keeps_all_its_traffic(patch: pytest.MonkeyPatch) -> None:
    real = desired.desired_traffic

    def both(state: State, **asked: Any) -> Any:
        found = real(state, **asked)
        return dataclasses.replace(found, weights={**found.weights, state.stable: 100.0} if state.stable else {})

    patch.setattr(desired, "desired_traffic", both)


def the_gateway_takes_whatever_it_is_told(patch: pytest.MonkeyPatch) -> None:
    def apply(self: Any, desired: Any) -> None:
        self._follow(desired)
        self.revision = desired.revision

    patch.setattr(testing.MemoryTraffic, "apply", apply)


def layers_want_every_single_step(patch: pytest.MonkeyPatch) -> None:
    real = testing.MemoryRegistry.apply

    def apply(self: Any, desired: Any) -> None:
        if desired.revision <= self.revision + 1:
            real(self, desired)

    patch.setattr(testing.MemoryRegistry, "apply", apply)


def a_new_judge_begins_with_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(analysis_run.Analysis, "catch_up", lambda self, **_: False)


def nonsense_is_written_down(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(analysis_run, "_kept", lambda seen, now: seen.to_json())


def silence_counts_from_the_epoch(patch: pytest.MonkeyPatch) -> None:
    real = gate.GateState.__init__

    def begin(self: Any, *args: Any, **asked: Any) -> None:
        real(self, *args, **{**asked, "since": 0.0})

    patch.setattr(gate.GateState, "__init__", begin)
    patch.setattr(gate.GateState, "looked", lambda self, at: None)


def a_rollback_is_rolled_back(patch: pytest.MonkeyPatch) -> None:
    """Nobody remembers that a step back is being measured: neither whoever asks the gates, nor whoever decides."""
    forget = {"verifying": None}
    ask, go_back, serving = analysis_run.questions, rollback.roll_back, policy._serving
    patch.setattr(analysis_run, "questions", lambda state, service, **asked: ask(dataclasses.replace(state, **forget), service, **asked))
    patch.setattr(policy, "_serving", lambda state, *args, **asked: serving(dataclasses.replace(state, **forget), *args, **asked))
    patch.setattr(rollback, "roll_back", lambda state, event, now: go_back(dataclasses.replace(state, **forget), event, now))


PLANTED: tuple[tuple[Plant, str], ...] = (
    (time_alone_passes, "no phase is passed with an inconclusive guardrail"),
    (inconclusive_is_fine, "no phase is passed with an inconclusive guardrail"),
    (nothing_is_ever_given_up, "no phase outlasts its limit"),
    (nobody_asks_whether_it_helped, "after a step back a Verified follows in time"),
    (no_breaker, "at most three automatic rollbacks an hour, then a hold"),
    (no_evidence, "every automatic step has evidence"),
    (no_page, "one page for each step back"),
    (holds_hold_nothing, "nothing goes on while held"),
    (marks_mark_nothing, "stable is never marked"),
    (stable_keeps_all_its_traffic, "shares sum to 100"),
    (the_gateway_takes_whatever_it_is_told, "the gateway's revision never decreases"),
    (layers_want_every_single_step, "layers converge once faults end"),
    (a_new_judge_begins_with_nothing, "a crashed judge says what one that was not says"),
    (nonsense_is_written_down, "a turn fails only while something is down"),
    (silence_counts_from_the_epoch, "patience begins when somebody looks"),
    (a_rollback_is_rolled_back, "no rollback of a rollback"),
)


def one_bad_release_after_the_other(seed: int) -> plan.Plan:
    """Five bundles with errors within an hour."""
    promoted = tuple(plan.Event(at=1.0 + 600.0 * number, what="promote", of=number) for number in range(6))
    return plan.Plan(seed=seed, config="canary", profiles=("good", *["errors"] * 5), rate=200.0, seconds=4800.0, events=promoted)


def everything_fails_after_a_while(seed: int) -> plan.Plan:
    """Outages, one after the other: what was gone back to looks bad too."""
    drawn = plan.drawn(seed)
    outages = tuple(plan.Event(at=at, what="outage", lasts_s=200.0) for at in range(600, int(drawn.seconds), 300))
    return dataclasses.replace(drawn, config="watched", events=(*drawn.events, *outages))


OCCASIONS: dict[Plant, Callable[[int], plan.Plan]] = {
    no_breaker: one_bad_release_after_the_other,
    a_rollback_is_rolled_back: everything_fails_after_a_while,
}
"""Worlds in which a fault that seldom matters comes up."""


@pytest.mark.parametrize(("plant", "rule"), PLANTED, ids=[plant.__name__ for plant, _ in PLANTED])
def test_a_planted_fault_is_found(plant: Plant, rule: str, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation would have told."""
    plant(monkeypatch)
    seen = []
    for seed in range(WORLDS):
        try:
            World(OCCASIONS.get(plant, plan.drawn)(seed), project).run()
        except watch.Violation as violation:
            seen.append(violation.rule)
            if violation.rule == rule:
                return
    pytest.fail(f"not found in {WORLDS} worlds; seen instead: {sorted(set(seen))}")

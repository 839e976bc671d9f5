"""Random lives of a service, on the real SQLite ledger, against a model of a few dictionaries."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lastgood import errors
from lastgood.core import transitions
from lastgood.core.events import Abandon, BakeEnded, Condemn, CutOver, Event, Lift, Marked, Propose, ReleaseHold, RollBack, SetHold
from lastgood.core.state import Mark, State, target
from lastgood.ledger import audit, connect
from tests.ledger.world import SERVICE, digest, register

BUNDLES = [digest(n) for n in range(1, 6)]
BUDGET = float(os.environ.get("LASTGOOD_TEST_BUDGET", "1"))

bundles = st.sampled_from(BUNDLES)
reasons = st.sampled_from(["bad", "leaked", "'quoted'", "ünïcode"])
verified = st.fixed_dictionaries({b: st.booleans() for b in BUNDLES})
events = st.one_of(
    st.builds(Propose, bundle=bundles, verified=st.just(True), override=st.none() | reasons),
    st.builds(CutOver, bundle=bundles, bake_s=st.just(60.0)),
    st.builds(Abandon, bundle=bundles, reason=reasons),
    st.builds(BakeEnded),
    st.builds(RollBack, reason=reasons, seen=st.none() | bundles, to=st.none() | bundles, verified=verified, automatic=st.booleans()),
    st.builds(
        Condemn,
        bundle=bundles,
        kind=st.sampled_from(["quarantined", "revoked"]),
        reason=reasons,
        verified=verified,
        take_down=st.booleans(),
    ),
    st.builds(Lift, bundle=bundles, reason=reasons),
    st.builds(SetHold, reason=reasons, actor=reasons),
    st.builds(ReleaseHold),
)


class LedgerMachine(RuleBasedStateMachine):
    """`self.log` holds every state ever appended, `self.marks` every mark in force."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="lg-machine-"))
        shutil.copy(_template(), self.folder / "ledger.db")
        self.ledger = connect(f"sqlite:///{self.folder / 'ledger.db'}")
        self.log = [State(service=SERVICE)]
        self.marks: dict[str, Mark] = {}
        self.was_stable: set[str] = set()
        self.now = 100.0
        self.entries = len(BUNDLES)

    def teardown(self) -> None:
        report = audit.verify(self.ledger, SERVICE, self.folder / "keys")
        self.ledger.close()
        shutil.rmtree(self.folder)
        assert report.problems == ()
        assert report.entries == self.entries

    @initialize()
    def nothing_yet(self) -> None:
        assert self.ledger.newest(SERVICE) == 0

    @rule(event=events, later=st.floats(-5.0, 100.0), again=st.booleans())
    def happens(self, event: Event, later: float, again: bool) -> None:
        """What the core allows the ledger takes, once; what the core refuses is not tried."""
        self.now += later
        self._decide(event, again=again)

    @precondition(lambda self: self.log[-1].candidate is not None)
    @rule()
    def cuts_over(self) -> None:
        """The candidate's workers are ready; without this rule few lives would get as far as a second stable bundle."""
        self._decide(CutOver(bundle=str(self.log[-1].candidate), bake_s=60.0), again=False)

    @precondition(lambda self: len(self.log[-1].lineage) > 1)
    @rule(reason=reasons)
    def rolls_back(self, reason: str) -> None:
        """Back by the rule, everything verifying."""
        self._decide(RollBack(reason=reason, verified=dict.fromkeys(BUNDLES, True)), again=True)

    def _decide(self, event: Event, *, again: bool) -> None:
        state = self.ledger.state(SERVICE, about=BUNDLES)
        try:
            after, effects = transitions.step(state, event, self.now)
        except errors.LastgoodError:
            return
        call: dict[str, Any] = {"verb": "v", "actor": "a", "reason": "r", "now": max(self.now, 0.0), "operation": f"op {after.revision}"}
        done = self.ledger.append(after, effects, **call)
        if again:
            assert self.ledger.append(after, effects, **call) == done
        self.entries += 1
        self.log.append(dataclasses.replace(after, marks={}))
        self.was_stable |= {after.stable} - {None}  # type: ignore[arg-type]
        for effect in effects:
            if isinstance(effect, Marked):
                self._mark(effect)

    def _mark(self, effect: Marked) -> None:
        held = self.marks.get(effect.bundle)
        if held is not None and held.kind == "revoked":
            return
        if effect.kind == "lifted":
            self.marks.pop(effect.bundle, None)
        else:
            self.marks[effect.bundle] = Mark(kind=effect.kind, reason=effect.reason)

    @precondition(lambda self: len(self.log) > 1)
    @rule(behind=st.integers(1, 3))
    def stale_plan(self, behind: int) -> None:
        """A plan made on an older revision is refused and leaves nothing."""
        old = self.log[max(0, len(self.log) - 1 - behind)]
        with pytest.raises(errors.Conflict):
            self.ledger.append(dataclasses.replace(old, revision=old.revision + 1), (), verb="v", actor="a", reason="r", now=1.0)

    @rule()
    def note(self) -> None:
        self.ledger.note(SERVICE, kind="n", body={}, actor="a", now=1.0)
        self.entries += 1

    @rule()
    def reopen(self) -> None:
        self.ledger.close()

    @invariant()
    def stable_and_candidate_may_serve(self) -> None:
        """I1, and revoked is for ever."""
        state = self.ledger.state(SERVICE, about=BUNDLES)
        assert dict(state.marks) == self.marks
        assert not {state.stable, state.candidate} & set(self.marks)

    @invariant()
    def the_log_is_what_was_appended(self) -> None:
        """Gapless, every state as it was, the newest on top; previous is the rollback target."""
        history = self.ledger.history(SERVICE, limit=1000)
        assert [r.number for r in reversed(history)] == list(range(1, len(self.log)))
        assert [dataclasses.replace(r.state, marks={}) for r in reversed(history)] == self.log[1:]
        if history:
            state = history[0].state
            assert state.previous == target(state, without=frozenset(filter(None, [state.stable])))
        for bundle in BUNDLES:
            assert self.ledger.was_stable(SERVICE, bundle) == (bundle in self.was_stable)


_made: list[Path] = []


def _template() -> Path:
    """A ledger with all bundles registered, made once; copying it is faster than setting up a new one."""
    if not _made:
        path = Path(tempfile.mkdtemp(prefix="lg-machine-")) / "ledger.db"
        with connect(f"sqlite:///{path}") as ledger:
            ledger.migrate()
            register(ledger, *range(1, len(BUNDLES) + 1))
        _made.append(path)
    return _made[0]


@pytest.fixture(autouse=True, scope="module")
def _remove_template():
    yield
    for path in _made:
        shutil.rmtree(path.parent)
    _made.clear()


TestLedger = LedgerMachine.TestCase
TestLedger.settings = hypothesis.settings(max_examples=max(1, round(25 * BUDGET)), stateful_step_count=30, deadline=None)

"""Every state that three bundles can reach, by every event, searched to the end."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterator

from lastgood import errors, rollout

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
BUNDLES = (A, B, C)
CHECKED = tuple(dict(zip(BUNDLES, truth, strict=True)) for truth in itertools.product((True, False), repeat=3))


def events() -> Iterator[rollout.Event]:
    """Every event of the small world."""
    for bundle in BUNDLES:
        for verified in (True, False):
            yield rollout.Propose(bundle=bundle, verified=verified)
        yield rollout.Propose(bundle=bundle, verified=True, override="sure")
        yield rollout.CutOver(bundle=bundle, bake_s=1)
        yield rollout.Abandon(bundle=bundle, reason="slow")
        yield rollout.Lift(bundle=bundle, reason="fine")
        for kind, down in itertools.product(("quarantined", "revoked"), (False, True)):
            yield rollout.Condemn(bundle=bundle, kind=kind, reason="bad", verified=CHECKED[0], take_down=down)  # type: ignore[arg-type]
    for seen, to, automatic, verified in itertools.product(
        (None, *BUNDLES), (None, *BUNDLES), (False, True), (CHECKED[0], CHECKED[3], CHECKED[5])
    ):
        yield rollout.RollBack(reason="bad", seen=seen, to=to, verified=verified, automatic=automatic)
    yield rollout.BakeEnded()
    yield rollout.SetHold(reason="freeze", actor="ann")
    yield rollout.ReleaseHold()


def check(before: rollout.State, event: rollout.Event, after: rollout.State) -> None:
    """The invariants of one transition."""
    assert after.stable not in after.marks, (before, event)
    assert after.candidate not in after.marks, (before, event)
    assert after.previous not in after.marks, (before, event)
    assert after.candidate is None or after.candidate != after.stable
    assert (after.candidate is not None) == (after.phase == "preparing")
    assert after.stable is None or after.lineage[0] == after.stable
    assert after.previous == rollout.target(after, without=frozenset({after.stable or ""}))
    assert after.hops <= rollout.MAX_HOPS
    assert after.revision == before.revision + 1
    revoked = {digest for digest, mark in before.marks.items() if mark.kind == "revoked"}
    assert all(after.marks[digest].kind == "revoked" for digest in revoked), "a revocation is for good"
    if isinstance(event, rollout.RollBack):
        assert after.candidate is None or (after.hold is not None and before.hold is None)
        assert after.stable is not None or before.stable is None
    if before.hold is not None and not isinstance(event, rollout.ReleaseHold):
        assert after.hold == before.hold
        assert after.candidate in (None, before.candidate), "nothing new is released on hold"
    if after.stable is None and before.stable is not None:
        assert isinstance(event, rollout.Condemn), "only a take-down stops the service"
        assert event.take_down
    lifted = set(before.marks) - set(after.marks)
    assert not lifted or isinstance(event, rollout.Lift | rollout.Propose)


def key(state: rollout.State) -> object:
    """What makes two states the same for the search; the revision number only counts."""
    marks = tuple(sorted((digest, mark.kind) for digest, mark in state.marks.items()))
    return dataclasses.replace(state, revision=0, marks={}), marks


def test_no_sequence_of_events_breaks_an_invariant() -> None:
    """Breadth-first over all reachable states: I1 holds in each, and each transition keeps the rules."""
    world = tuple(events())
    start = rollout.State(service="flights")
    seen = {repr(key(start))}
    queue = deque([start])
    transitions = 0
    while queue:
        state = queue.popleft()
        for event in world:
            try:
                after, _ = rollout.step(state, event, 0.0)
            except errors.LastgoodError:
                continue
            transitions += 1
            check(state, event, after)
            if repr(key(after)) not in seen:
                seen.add(repr(key(after)))
                queue.append(dataclasses.replace(after, revision=0))
    assert len(seen) > 1000
    assert transitions > 10_000

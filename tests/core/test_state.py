"""The release state as a revision row keeps it: what is written reads back, whatever release wrote it."""

from __future__ import annotations

import json

import hypothesis
import pytest
from hypothesis import strategies as st

from lastgood import errors
from lastgood.core.state import Hold, Mark, State, Verifying, from_json
from tests.core.rollouts import A, B, C, released
from tests.core.test_phases import chains

TEXT = st.text('aé"\\ \n', max_size=5)
DIGESTS = st.sampled_from([A, B, C])
TIMES = st.floats(allow_nan=False, allow_infinity=False)
STATES = st.builds(
    State,
    service=TEXT,
    revision=st.integers(0),
    stable=st.none() | DIGESTS,
    candidate=st.none() | DIGESTS,
    previous=st.none() | DIGESTS,
    phase=st.sampled_from(["idle", "preparing", "shadow", "canary", "approval", "baking"]),
    phase_since=st.none() | TIMES,
    phase_until=st.none() | TIMES,
    rollout=st.none() | st.integers(0),
    chain=chains(),
    position=st.none() | st.integers(0, 5),
    weight_pct=TIMES,
    mirror_pct=TIMES,
    approved=st.booleans(),
    waived=st.lists(TEXT).map(tuple),
    verifying=st.none() | st.builds(Verifying, since=TIMES, until=TIMES, left=st.none() | DIGESTS, rollout=st.none() | st.integers(0)),
    lineage=st.lists(DIGESTS, unique=True).map(tuple),
    hold=st.none() | st.builds(Hold, reason=TEXT, actor=TEXT, since=TIMES, gate=st.none() | TEXT),
    hops=st.integers(0, 3),
    automatic_at=st.lists(TIMES).map(tuple),
    marks=st.dictionaries(DIGESTS, st.builds(Mark, kind=st.sampled_from(["quarantined", "revoked"]), reason=TEXT)),
)


@hypothesis.given(state=STATES)
def test_any_state_survives_the_ledger(state: State) -> None:
    """What a revision row keeps reads back as the same state; marks stand in their own table."""
    kept = json.loads(json.dumps(state.to_json()))
    assert from_json(kept, state.marks) == state
    assert "marks" not in kept


def test_a_state_of_before_there_were_phases_still_reads() -> None:
    """A row of the first release, which knew no chain, verification or waived gates, is a state without them."""
    kept = {
        "schema": "lastgood.state/v1", "service": "flights", "revision": 3, "stable": A, "candidate": None, "previous": None,
        "phase": "idle", "phase_until": None, "lineage": [A], "hold": None, "hops": 0,
    }  # fmt: skip
    assert from_json(kept, {}) == State(service="flights", revision=3, stable=A, lineage=(A,))


@pytest.mark.parametrize(
    "spoil",
    [
        {"colour": "red"},
        {"chain": [{"kind": "canary", "share": 5}]},
        {"hold": {"reason": "x"}},
        {"verifying": {"since": 1.0}},
        {"lineage": None},
    ],
    ids=lambda spoil: next(iter(spoil)),
)
def test_a_state_that_does_not_parse_is_damaged(spoil: dict[str, object]) -> None:
    """A row with keys that no release writes is an error with a remedy, never half read."""
    kept = released(A).to_json() | spoil
    with pytest.raises(errors.Damaged, match=r"the revision cannot be parsed: .*; run 'lastgood audit verify'"):
        from_json(kept, {})
    with pytest.raises(errors.Damaged, match=r"revision has schema None, but this release reads 'lastgood\.state/v1'; upgrade lastgood"):
        from_json({}, {})


def test_the_marks_of_a_state_cannot_be_changed() -> None:
    """Neither through the state nor through the mapping that it was made from."""
    marks = {A: Mark(kind="quarantined", reason="cve")}
    state = State(service="flights", marks=marks)
    marks.clear()
    assert set(state.marks) == {A}
    with pytest.raises(TypeError):
        state.marks[B] = Mark(kind="revoked", reason="x")  # type: ignore[index]

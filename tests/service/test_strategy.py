"""The chains: what a chain may be, and what each tier does where a team names none."""

from __future__ import annotations

import itertools
import typing

import hypothesis
import pydantic
import pytest
from hypothesis import strategies as st

from lastgood.core.state import PlannedPhase
from lastgood.service import strategy

HOUR = 3600.0
DAY = 24 * HOUR


def short(chain: strategy.Chain) -> list[tuple[object, ...]]:
    """Each phase as (kind, share or mirror, least seconds)."""
    told = []
    for phase in chain:
        share = phase.mirror_pct if isinstance(phase, strategy.Shadow) else getattr(phase, "weight_pct", None)
        told.append((phase.phase, share, getattr(phase, "min_s", None)))
    return told


TIERS: dict[str, list[tuple[object, ...]]] = {
    "real-time-api": [("canary", 5.0, 600.0), ("canary", 25.0, 300.0), ("canary", 50.0, 300.0)],
    "batch-scoring": [("canary", 10.0, 300.0), ("canary", 50.0, 300.0)],
    "multi-step-agent": [("shadow", 100.0, HOUR), ("canary", 5.0, HOUR), ("canary", 25.0, HOUR)],
    "llm-application": [("shadow", 100.0, HOUR)],
    "fine-tuned-model": [("canary", 5.0, HOUR), ("canary", 20.0, HOUR), ("canary", 50.0, HOUR)],
    "rag": [("shadow", 100.0, HOUR), ("canary", 5.0, HOUR), ("canary", 25.0, HOUR)],
}


@pytest.mark.parametrize("tier", TIERS)
def test_each_tier_has_the_chain_that_is_documented(tier: strategy.Tier) -> None:
    """No canary of a tier mirrors besides, and every phase has three days at most."""
    chain = strategy.of_tier(tier, high_stakes=False)
    assert short(chain) == TIERS[tier]
    assert {phase.max_s for phase in chain} == {3 * DAY}
    assert not any(phase.mirror_pct for phase in chain if isinstance(phase, strategy.Canary))


def test_every_tier_has_a_chain() -> None:
    """A new tier gets one, or the import of its first service would fail."""
    assert set(strategy.DEFAULTS) == set(typing.get_args(strategy.Tier)) == set(TIERS)


@pytest.mark.parametrize("tier", TIERS)
def test_high_stakes_get_everything_and_a_person(tier: strategy.Tier) -> None:
    """A day of shadow, canaries that grow, and an approval, whatever the tier."""
    assert short(strategy.of_tier(tier, high_stakes=True)) == [
        ("shadow", 100.0, DAY), ("canary", 1.0, HOUR), ("canary", 5.0, DAY), ("canary", 25.0, HOUR), ("approval", None, None),
    ]  # fmt: skip


def test_a_phase_that_says_nothing_lasts_five_minutes_to_three_days() -> None:
    """A shadow copies everything; a canary copies nothing besides."""
    shadow, canary, approval = strategy.parse([{"phase": "shadow"}, {"phase": "canary", "weight_pct": 5}, {"phase": "approval"}])
    assert shadow == strategy.Shadow(phase="shadow", mirror_pct=100.0, min_s=300.0, max_s=259_200.0)
    assert canary == strategy.Canary(phase="canary", weight_pct=5.0, mirror_pct=0.0, min_s=300.0, max_s=259_200.0)
    assert approval == strategy.Approval(phase="approval", max_s=259_200.0)


def test_a_chain_is_planned_as_the_core_keeps_it() -> None:
    """Kind, shares and times of each phase, nothing else."""
    chain = strategy.parse(
        [
            {"phase": "shadow", "mirror_pct": 20, "min_s": 1, "max_s": 2},
            {"phase": "canary", "weight_pct": 5, "mirror_pct": 10, "min_s": 3, "max_s": 4},
            {"phase": "approval", "max_s": 5},
        ]
    )
    assert strategy.planned(chain) == (
        PlannedPhase(kind="shadow", weight_pct=0.0, mirror_pct=20.0, min_s=1.0, max_s=2.0),
        PlannedPhase(kind="canary", weight_pct=5.0, mirror_pct=10.0, min_s=3.0, max_s=4.0),
        PlannedPhase(kind="approval", weight_pct=0.0, mirror_pct=0.0, min_s=0.0, max_s=5.0),
    )


def test_an_empty_chain_is_a_chain() -> None:
    """Blue-green alone: cut over at once."""
    assert strategy.parse([]) == ()
    assert strategy.planned(()) == ()


@pytest.mark.parametrize(
    "phase",
    [
        {"phase": "shadow", "mirror_pct": 0},
        {"phase": "shadow", "mirror_pct": 100.1},
        {"phase": "shadow", "weight_pct": 5},
        {"phase": "shadow", "min_s": -1},
        {"phase": "canary", "weight_pct": 0},
        {"phase": "canary", "weight_pct": 100},
        {"phase": "canary", "weight_pct": 5, "mirror_pct": -1},
        {"phase": "canary", "weight_pct": 5, "max_s": 0},
        {"phase": "approval", "max_s": 91 * DAY},
        {"phase": "approval", "min_s": 5},
        {"phase": "blue"},
        {},
    ],
    ids=str,
)
def test_a_phase_outside_of_its_limits_is_refused(phase: dict[str, object]) -> None:
    """Shares between nothing and everything, times between nothing and 90 days, no foreign keys."""
    with pytest.raises(pydantic.ValidationError):
        strategy.parse([phase])


@pytest.mark.parametrize(
    "phase",
    [
        {"phase": "shadow", "mirror_pct": 100, "min_s": 0},
        {"phase": "canary", "weight_pct": 99.9, "mirror_pct": 100},
        {"phase": "canary", "weight_pct": 0.1, "mirror_pct": 0, "min_s": 10, "max_s": 10},
        {"phase": "approval", "max_s": 90 * DAY},
    ],
    ids=str,
)
def test_a_phase_at_its_limits_is_taken(phase: dict[str, object]) -> None:
    """The ends that are named are allowed."""
    assert len(strategy.parse([phase])) == 1


def test_a_phase_cannot_be_changed_afterwards() -> None:
    """The chain of a tier is shared by all its services."""
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        strategy.DEFAULTS["rag"][0].max_s = 1.0


PHASES = st.one_of(
    st.builds(strategy.Shadow, phase=st.just("shadow"), min_s=st.floats(0.0, 500.0), max_s=st.floats(1.0, 500.0)),
    st.builds(
        strategy.Canary, phase=st.just("canary"), weight_pct=st.integers(1, 99), min_s=st.floats(0.0, 500.0), max_s=st.floats(1.0, 500.0)
    ),
    st.builds(strategy.Approval, phase=st.just("approval")),
)


@hypothesis.given(chain=st.lists(PHASES, max_size=5).map(tuple))
def test_exactly_the_chains_that_make_sense_are_taken(chain: strategy.Chain) -> None:
    """Shadows, then canaries that grow, then at most one approval, each no longer at least than at most."""
    order = {"shadow": 0, "canary": 1, "approval": 2}
    ranks = [order[phase.phase] for phase in chain]
    weights = [phase.weight_pct for phase in chain if isinstance(phase, strategy.Canary)]
    sense = (
        all(one <= other for one, other in itertools.pairwise(ranks))
        and ranks.count(2) <= 1
        and all(one < other for one, other in itertools.pairwise(weights))
        and all(phase.min_s <= phase.max_s for phase in chain if not isinstance(phase, strategy.Approval))
    )
    if sense:
        assert strategy.check(chain) == chain
        assert strategy.parse([phase.model_dump() for phase in chain]) == chain
    else:
        with pytest.raises(ValueError, match=r"; (sort|name|raise)"):
            strategy.check(chain)


# --- on one line -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "chain"),
    [
        ("none", []),
        (" none ", []),
        ("shadow", [{"phase": "shadow"}]),
        ("shadow:50, canary:5 ,canary:25.5,approval", [
            {"phase": "shadow", "mirror_pct": 50}, {"phase": "canary", "weight_pct": 5}, {"phase": "canary", "weight_pct": 25.5},
            {"phase": "approval"},
        ]),
    ],
)  # fmt: skip
def test_a_chain_can_be_written_on_one_line(text: str, chain: list[dict[str, object]]) -> None:
    """As on the command line and in a job; everything else is the default."""
    assert strategy.from_text(text) == strategy.parse(chain)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("canary:5,canary:x", "phase 2, canary, weight_pct: Input should be a valid number, unable to parse string as a number"),
        ("shadow,canary", "phase 2, canary, weight_pct: Field required"),
        ("approval:5", "phase 1, approval, percentage: Extra inputs are not permitted"),
        ("canary:0,canary:200", (
            "phase 1, canary, weight_pct: Input should be greater than 0; phase 2, canary, weight_pct: Input should be less than 100"
        )),
        ("canary:5,shadow", "phases must be in the order shadow, canary, approval, not canary, shadow; sort them"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_chain_is_refused_with_its_phase(text: str, why: str) -> None:
    """One line, which ends with how to write it."""
    with pytest.raises(ValueError, match="is not a strategy") as caught:
        strategy.from_text(text)
    assert str(caught.value) == f"{text!r} is not a strategy: {why}; write it like 'shadow,canary:5,canary:25,approval', or 'none'"


def test_a_control_arm_needs_a_canary_without_copies() -> None:
    """Every other chain with a canary takes one, a shadow before it as well."""
    strategy.check_control(strategy.from_text("shadow,canary:5,approval"))
    for text in ("none", "shadow", "approval"):
        with pytest.raises(ValueError, match="no phase is a canary"):
            strategy.check_control(strategy.from_text(text))
    mirrored = strategy.parse([{"phase": "canary", "weight_pct": 5}, {"phase": "canary", "weight_pct": 6, "mirror_pct": 1}])
    with pytest.raises(ValueError, match="remove one of them"):
        strategy.check_control(mirrored)

"""How a bundle takes over: the chain of phases, and each tier's default chain.

    preparing -> shadow* -> canary* -> approval? -> cut-over -> baking -> idle

A chain lists what lies between `preparing` and the cut-over; every chain ends with the cut-over and a bake. An empty
chain is blue-green alone: the new workers are made ready, then all traffic moves at once.

What does not belong here: what is measured meanwhile (`service.gates`), when a phase ends (`core.transitions`).
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

import pydantic

from lastgood.core.state import PlannedPhase

Tier = Literal["real-time-api", "batch-scoring", "multi-step-agent", "llm-application", "fine-tuned-model", "rag"]

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


class _Phase(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    max_s: float = pydantic.Field(default=3 * DAY_S, gt=0, le=90 * DAY_S)
    """Seconds after which a release that could not be judged is given up: not blamed, and never let through."""


class Shadow(_Phase):
    """Live requests are copied to the candidate; its answers are compared and discarded."""

    phase: Literal["shadow"]
    mirror_pct: float = pydantic.Field(default=100.0, gt=0, le=100)
    """Percent of live requests that are copied."""
    min_s: float = pydantic.Field(default=300.0, ge=0)
    """Minimum duration in seconds; after that it ends as soon as every gate has passed."""


class Canary(_Phase):
    """The candidate answers a share of the users; each user stays on one side while the share grows."""

    phase: Literal["canary"]
    weight_pct: float = pydantic.Field(gt=0, lt=100)
    """Percent of live requests that the candidate answers."""
    mirror_pct: float = pydantic.Field(default=0.0, ge=0, le=100)
    """Percent of live requests that are also copied to the candidate, for paired evidence on the same rows."""
    min_s: float = pydantic.Field(default=300.0, ge=0)
    """Minimum duration in seconds; after that it ends as soon as every gate has passed."""


class Approval(_Phase):
    """Nothing continues until a person approves; who, when and why is recorded in the ledger. The candidate keeps its share."""

    phase: Literal["approval"]


PhaseSettings = Annotated[Shadow | Canary | Approval, pydantic.Field(discriminator="phase")]
Chain = tuple[PhaseSettings, ...]

_ADAPTER: pydantic.TypeAdapter[Chain] = pydantic.TypeAdapter(Chain)


def parse(value: Any) -> Chain:
    """The chain that a list of mappings describes. Raises pydantic.ValidationError, or ValueError for a chain that contradicts itself."""
    return check(_ADAPTER.validate_python(value))


def from_text(text: str) -> Chain:
    """`shadow,canary:5,canary:25,approval` as a chain; a percentage may be left out for shadow. `none` is the empty chain.

    Raises ValueError for a text that is not a strategy, and for a chain that contradicts itself.
    """
    phases: list[dict[str, Any]] = []
    for word in [] if text.strip() == "none" else text.split(","):
        kind, _, percent = word.strip().partition(":")
        key = {"canary": "weight_pct", "shadow": "mirror_pct"}.get(kind, "percentage")
        phases.append({"phase": kind, **({key: percent} if percent else {})})
    try:
        return parse(phases)
    except ValueError as error:  # pydantic's own errors are ValueErrors
        why = _in_words(error) if isinstance(error, pydantic.ValidationError) else str(error)
        raise ValueError(f"{text!r} is not a strategy: {why}; write it like 'shadow,canary:5,canary:25,approval', or 'none'") from error


def _in_words(error: pydantic.ValidationError) -> str:
    """The errors by phase, on one line; pydantic's own text takes several and names its web site."""
    return "; ".join(f"phase {', '.join([str(1 + int(one['loc'][0])), *map(str, one['loc'][1:])])}: {one['msg']}" for one in error.errors())


def check(chain: Chain) -> Chain:
    """*chain*, if it is consistent as a whole: shadow first, growing shares, at most one approval, at the end. Raises ValueError."""
    kinds = [phase.phase for phase in chain]
    if kinds != sorted(kinds, key=["shadow", "canary", "approval"].index):
        raise ValueError(f"phases must be in the order shadow, canary, approval, not {', '.join(kinds)}; sort them")
    if kinds.count("approval") > 1:
        raise ValueError("only the last phase can be an approval; name it once, at the end")
    weights = [phase.weight_pct for phase in chain if isinstance(phase, Canary)]
    if any(later <= earlier for earlier, later in itertools.pairwise(weights)):
        raise ValueError(f"weight_pct must increase from canary to canary, not {', '.join(f'{w:g}' for w in weights)}; sort or change them")
    for phase in chain:
        if not isinstance(phase, Approval) and phase.min_s > phase.max_s:
            raise ValueError(f"{phase.phase}: min_s {phase.min_s:g} is longer than max_s {phase.max_s:g}; raise max_s")
    return chain


def check_control(chain: Chain) -> None:
    """Raise ValueError for a *chain* in which a control arm is not possible."""
    canaries = [phase for phase in chain if isinstance(phase, Canary)]
    if not canaries:
        raise ValueError(
            "release.control_arm compares two shares of the users, but no phase is a canary; add one, or remove release.control_arm"
        )
    if any(phase.mirror_pct for phase in canaries):
        raise ValueError(
            "release.control_arm compares answers to different users, mirror_pct in a canary compares answers to the same rows; remove one of them"
        )


def _chain(*phases: dict[str, Any]) -> Chain:
    return parse(list(phases))


_SHADOW = {"phase": "shadow", "min_s": 300.0}

DEFAULTS: dict[Tier, Chain] = {
    "real-time-api": _chain(
        {"phase": "canary", "weight_pct": 5.0, "min_s": 600.0},
        {"phase": "canary", "weight_pct": 25.0, "min_s": 300.0},
        {"phase": "canary", "weight_pct": 50.0, "min_s": 300.0},
    ),
    "batch-scoring": _chain(
        {"phase": "canary", "weight_pct": 10.0, "min_s": 300.0},
        {"phase": "canary", "weight_pct": 50.0, "min_s": 300.0},
    ),
    "multi-step-agent": _chain(
        {**_SHADOW, "min_s": HOUR_S},
        {"phase": "canary", "weight_pct": 5.0, "min_s": HOUR_S},
        {"phase": "canary", "weight_pct": 25.0, "min_s": HOUR_S},
    ),
    "llm-application": _chain({**_SHADOW, "min_s": HOUR_S}),
    "fine-tuned-model": _chain(
        {"phase": "canary", "weight_pct": 5.0, "min_s": HOUR_S},
        {"phase": "canary", "weight_pct": 20.0, "min_s": HOUR_S},
        {"phase": "canary", "weight_pct": 50.0, "min_s": HOUR_S},
    ),
    "rag": _chain(
        {**_SHADOW, "min_s": HOUR_S},
        {"phase": "canary", "weight_pct": 5.0, "min_s": HOUR_S},
        {"phase": "canary", "weight_pct": 25.0, "min_s": HOUR_S},
    ),
}
"""Each tier's chain where its service.yaml names no strategy. docs/strategies.md gives the reasons."""

HIGH_STAKES: Chain = _chain(
    {**_SHADOW, "min_s": DAY_S},
    {"phase": "canary", "weight_pct": 1.0, "min_s": HOUR_S},
    {"phase": "canary", "weight_pct": 5.0, "min_s": DAY_S},
    {"phase": "canary", "weight_pct": 25.0, "min_s": HOUR_S},
    {"phase": "approval"},
)
"""Shadow, canary, an approval, then blue-green: for `high_stakes: true`, whatever the tier."""


def planned(chain: Chain) -> tuple[PlannedPhase, ...]:
    """*chain* in the decision core's form."""
    return tuple(PlannedPhase(kind=phase.phase, **phase.model_dump(exclude={"phase"})) for phase in chain)


def of_tier(tier: Tier, *, high_stakes: bool) -> Chain:
    """The chain of a service that names none."""
    return HIGH_STAKES if high_stakes else DEFAULTS[tier]

"""The conditions that a release must meet: the gates that a service declares, and what each does if it fails or is inconclusive.

A gate compares the candidate with the stable bundle that serves at the same time, or, where only one serves (after the cut-over,
after a rollback, as a trigger), with a limit. Every gate gives pass, fail or inconclusive; *inconclusive* has policies of its own
and never counts as pass.

What does not belong here: statistics (`gates`), the source of the numbers (`sources`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import pydantic

MOST = 1_000_000_000
"""The largest count that a gate may wait for."""

GateKind = Literal["guardrail", "signal", "observe"]
"""guardrail: a failure rolls back. signal: a failure holds the release. observe: it is only shown."""

WhenUnknown = Literal["wait", "roll_back", "ask"]
"""What happens when a gate is inconclusive for too long: keep waiting, take the candidate out, or ask a person."""


class _Gate(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    kind: GateKind = "guardrail"
    """What a failure does: `guardrail` rolls back, `signal` holds the release, `observe` only shows it."""
    resume: Literal["itself", "person"] = "itself"
    """For a signal: whether the release continues by itself once the gate passes, or a person must release the hold."""
    window_s: float = pydantic.Field(default=60.0, gt=0, le=86_400)
    """Length of one window of the persistence rule, in seconds."""
    persistence: int = pydantic.Field(default=5, ge=0, le=1000)
    """Windows in a row that must be over the threshold before the persistence rule fails the gate; 0 turns that rule off."""
    window_min: int = pydantic.Field(default=20, ge=1, le=MOST)
    """Fewest requests of the watched arm for a window to count; a smaller one neither counts nor interrupts a run."""
    min_samples: int = pydantic.Field(default=200, ge=1, le=MOST)
    """Fewest requests (or rows) of the watched arm before the gate can pass."""
    no_traffic: WhenUnknown = "wait"
    """Policy when the watched arm has had no requests for `patience_s`."""
    source_down: WhenUnknown = "wait"
    """Policy when the source of the numbers has not answered for `patience_s`."""
    too_few: WhenUnknown = "wait"
    """Policy when a phase has lasted its `max_s` and the gate is still inconclusive; `wait` then gives the release up."""
    patience_s: float = pydantic.Field(default=900.0, gt=0, le=90 * 86_400)
    """Seconds before `no_traffic` and `source_down` apply."""
    watch: Literal["rollout", "bake", "always"] = "bake"
    """Until when it is evaluated: until the cut-over, until the end of the bake, or indefinitely as a trigger on stable."""
    during: tuple[Literal["shadow", "canary"], ...] = ("shadow", "canary")
    """Phases before the cut-over that need it; a score with late labels may be left to the canary."""
    audit: bool = False
    """Whether a failure also asks for an audit of what the bundle did; the page says so."""


class ErrorRate(_Gate):
    """Share of requests that fail (5xx, resets, time-outs), against the stable arm. From the proxy."""

    metric: Literal["error_rate"]
    margin: float = pydantic.Field(default=0.02, gt=0, lt=1)
    """How much higher than stable's it may be, as a fraction: 0.02 is two points. Must be positive: no amount of traffic can rule out a
    difference of zero."""
    max: float | None = pydantic.Field(default=None, gt=0, lt=1)
    """Highest share allowed where nothing serves at the same time; None: stable's earlier share, plus the margin."""


class LatencyP99(_Gate):
    """99th percentile of the time to answer, against a ceiling. From the proxy."""

    metric: Literal["latency_p99"]
    max_ms: float = pydantic.Field(gt=0, le=600_000)
    """The ceiling in milliseconds: at most one request in a hundred may take longer."""
    persistence: int = pydantic.Field(default=3, ge=0, le=1000)
    """Windows in a row over the ceiling before the persistence rule fails the gate; 0 turns that rule off."""
    settle_s: float = pydantic.Field(default=15.0, ge=0, le=86_400)
    """Seconds at the start of a phase that are not counted: caches and connections are then cold, which is not a regression."""


class Score(_Gate):
    """Mean of a score per answered row, from predictions joined with feedback."""

    metric: Literal["score"]
    score: str = pydantic.Field(
        pattern=r"^(brier|log_loss|accuracy|absolute_error|squared_error|(output|outcome)\.[A-Za-z_][A-Za-z0-9_]*)$"
    )
    """brier, log_loss, accuracy, absolute_error, squared_error; or `output.FIELD` of an answer, `outcome.FIELD` of a feedback."""
    better: Literal["lower", "higher"] | None = None
    """Which direction is good; required for output.* and outcome.*, known for the others."""
    margin: float = pydantic.Field(ge=0)
    """How much worse than stable's mean it may be, in units of the score."""
    limit: float | None = None
    """Floor (better: higher) or ceiling (better: lower) for the mean where nothing serves at the same time."""
    block_s: float = pydantic.Field(default=60.0, gt=0, le=30 * 86_400)
    """Rows within this many seconds count as one observation, because simultaneous events are not independent."""
    kind: GateKind = "signal"
    """What a failure does: `guardrail` rolls back, `signal` (default) holds the release, `observe` only shows it."""

    @property
    def of_users(self) -> bool:
        """Whether it scores the outcome that an answer led to, which only an answer that a user got can have."""
        return self.score.startswith("outcome.")

    @property
    def lower_is_better(self) -> bool:
        """Whether a lower mean is better."""
        if self.better is not None:
            return self.better == "lower"
        return self.score != "accuracy"

    @pydantic.model_validator(mode="after")
    def _direction(self) -> Score:
        if "." in self.score and self.better is None:
            raise ValueError(f"score {self.score!r} needs 'better: lower' or 'better: higher'; add it")
        return self


class Agreement(_Gate):
    """Share of mirrored requests that candidate and stable answer alike. From the inference log; needs a mirror."""

    metric: Literal["agreement"]
    min: float = pydantic.Field(gt=0, lt=1)
    """Lowest share of equal answers allowed; no traffic can ever prove that all of them are equal."""
    tolerance: float = pydantic.Field(default=0.0, ge=0)
    """Two probabilities count as equal if they differ by no more than this; other answers must be equal exactly."""


class Downstream(_Gate):
    """Health of a service that this one depends on: a URL that must answer 2xx, or a PromQL query."""

    metric: Literal["downstream"]
    url: str | None = pydantic.Field(default=None, pattern=r"^https?://")
    """Requested once per measurement; a failing or slow answer counts against `max`."""
    query: str | None = None
    """PromQL; `$bundle` stands for the short bundle id. The highest value of the result counts against `max`."""
    max: float = pydantic.Field(default=0.5, ge=0)
    """Highest value allowed in a window: for a URL the share of failed probes, for a query its value."""
    timeout_s: float = pydantic.Field(default=2.0, gt=0, le=60)
    """Seconds until a probe or query counts as unanswered."""
    kind: GateKind = "signal"
    """What a failure does: `guardrail` rolls back, `signal` (default) holds the release, `observe` only shows it."""
    resume: Literal["itself", "person"] = "person"
    """A person decides by default: the cause may lie elsewhere."""
    window_min: int = pydantic.Field(default=1, ge=1, le=MOST)
    """Fewest probes for a window to count."""
    min_samples: int = pydantic.Field(default=3, ge=1, le=MOST)
    """Fewest probes before the gate can pass."""

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> Downstream:
        if (self.url is None) == (self.query is None):
            raise ValueError("a downstream gate needs either 'url' or 'query'; give exactly one of them")
        return self


class Query(_Gate):
    """Any figure that Prometheus has for each arm."""

    metric: Literal["promql"]
    query: str
    """PromQL with `$bundle` (short bundle id) or `$arm` in it; evaluated for each arm."""
    margin: float | None = pydantic.Field(default=None, ge=0)
    """How much higher than stable's value the candidate's may be; None: only `max` counts."""
    max: float | None = None
    """Highest value allowed."""
    timeout_s: float = pydantic.Field(default=2.0, gt=0, le=60)
    """Seconds until a query counts as unanswered."""
    window_min: int = pydantic.Field(default=1, ge=1, le=MOST)
    """Fewest values for a window to count."""
    min_samples: int = pydantic.Field(default=3, ge=1, le=MOST)
    """Fewest values before the gate can pass."""

    @pydantic.model_validator(mode="after")
    def _some_limit(self) -> Query:
        if self.margin is None and self.max is None:
            raise ValueError("a promql gate needs 'margin' (against stable), 'max', or both; without one it could never fail")
        if self.margin is not None and "$bundle" not in self.query and "$arm" not in self.query:
            raise ValueError("'margin' compares two arms, but the query contains neither $bundle nor $arm; add one, or use 'max'")
        return self


class OutOfMemory(_Gate):
    """Workers killed because memory ran out, one after the other without a steady minute in between."""

    metric: Literal["oom_kills"]
    max_kills: int = pydantic.Field(default=2, ge=1, le=MOST)
    """Consecutive kills at which the gate fails, at once."""
    min_samples: int = pydantic.Field(default=1, ge=1, le=MOST)
    """Readings of the worker before the gate can pass."""


class Ejections(_Gate):
    """Times that the proxy itself took the candidate's workers out of rotation, including while nobody was watching."""

    metric: Literal["ejections"]
    max_ejections: int = pydantic.Field(default=1, ge=1, le=MOST)
    """Ejections at which the gate fails, at once."""
    min_samples: int = pydantic.Field(default=1, ge=1, le=MOST)
    """Readings of the proxy before the gate can pass."""
    watch: Literal["rollout", "bake", "always"] = "rollout"
    """Applies to a candidate: stable is readmitted automatically after seconds."""


class SampleRatio(_Gate):
    """Whether the proxy really splits the traffic as configured; if not, no comparison is valid."""

    metric: Literal["sample_ratio"]
    tolerance: float = pydantic.Field(default=0.5, gt=0, lt=1)
    """How far the candidate's share may be from the configured one, relative to it: users are not equally busy."""
    kind: GateKind = "signal"
    """What a failure does: `guardrail` rolls back, `signal` (default) holds the release, `observe` only shows it."""
    resume: Literal["itself", "person"] = "person"
    """A person decides by default: a wrong split has a cause outside the candidate."""
    watch: Literal["rollout", "bake", "always"] = "rollout"
    """There is no split after the cut-over."""


Gate = Annotated[
    ErrorRate | LatencyP99 | Score | Agreement | Downstream | Query | OutOfMemory | Ejections | SampleRatio,
    pydantic.Field(discriminator="metric"),
]
AnyGate = ErrorRate | LatencyP99 | Score | Agreement | Downstream | Query | OutOfMemory | Ejections | SampleRatio

DEFAULTS: dict[str, AnyGate] = {
    "errors": ErrorRate(metric="error_rate"),
    "oom": OutOfMemory(metric="oom_kills"),
    "ejections": Ejections(metric="ejections"),
    "split": SampleRatio(metric="sample_ratio"),
}
"""Gates that every service has; one declared under the same name replaces a default one."""


def check(gates: Mapping[str, AnyGate], *, mirrored: bool) -> None:
    """Raise ValueError for a gate that contradicts itself or the strategy; *mirrored* says that a phase mirrors requests."""
    for name, gate in gates.items():
        policies = {gate.no_traffic, gate.source_down, gate.too_few} - {"wait"}
        if gate.kind == "observe" and policies:
            raise ValueError(
                f"gate {name!r} only observes, but has the policy {', '.join(sorted(policies))}; make it a guardrail or a signal"
            )
        if not gate.during and gate.watch == "rollout":
            raise ValueError(f"gate {name!r} is not used in any phase; name one in 'during', or remove the gate")
        if gate.kind != "signal" and gate.resume == "person" and type(gate).model_fields["resume"].default != "person":
            raise ValueError(
                f"gate {name!r} is a {gate.kind}, which holds no release, but has 'resume: person'; make it a signal, or remove 'resume'"
            )
        if isinstance(gate, Agreement) and not mirrored:
            raise ValueError(
                f"gate {name!r} compares mirrored answers, but no phase has mirror_pct; add a shadow phase, or remove the gate"
            )
        if isinstance(gate, Downstream | Query) and gate.persistence == 0:
            raise ValueError(
                f"gate {name!r} has no test besides the persistence rule, so with 'persistence: 0' it never fails; set 1 or more"
            )
        if isinstance(gate, Agreement | Ejections | SampleRatio) and gate.watch == "always":
            raise ValueError(f"gate {name!r} needs a candidate, but has 'watch: {gate.watch}'; remove 'watch'")


def check_control(gates: Mapping[str, AnyGate]) -> None:
    """Raise ValueError for a gate that would compare the candidate with all of stable, where a control arm is configured."""
    for name, gate in gates.items():
        if isinstance(gate, Query) and gate.margin is not None and "$arm" not in gate.query:
            raise ValueError(f"gate {name!r} cannot tell the control arm from the rest of stable; put $arm into its query")

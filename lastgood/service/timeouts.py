"""How long a request may take, and whether it may be retried: each tier's defaults for its service.yaml.

    real-time-api     5 s in all, retried elsewhere after 3 s or a failed answer
    batch-scoring     300 s, tried once
    llm-application, fine-tuned-model, rag     120 s, tried once
    multi-step-agent  600 s, tried once

Where nothing is retried, one try may take as long as the whole request. Values in the file always take precedence.

What does not belong here: Envoy's configuration (`layers.traffic`), the phases of a tier (`strategy`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from lastgood.service.strategy import Tier


class Limits(Protocol):
    """The time limits of a service, `traffic` of its service.yaml."""

    @property
    def timeout_s(self) -> float: ...
    @property
    def per_try_timeout_s(self) -> float: ...
    @property
    def idempotent(self) -> bool: ...


LONGEST_S = 600.0
"""The longest time that a service may make its callers wait."""
_WAITS = ("local", "openai", "anthropic")
"""Slow providers; the others answer at once, whatever their pin."""
TRY_SHARE = 0.6
"""Share of a request's time that its first try may take; the rest is for the fallback."""


@dataclasses.dataclass(frozen=True, slots=True)
class Patience:
    """How long a tier's callers wait for an answer, in seconds, and whether a retry does no harm."""

    timeout_s: float
    idempotent: bool

    def per_try_s(self, timeout_s: float, *, idempotent: bool) -> float:
        """Seconds for one try of a request that may take *timeout_s*."""
        return round(timeout_s * TRY_SHARE, 6) if idempotent else timeout_s


DEFAULTS: Mapping[Tier, Patience] = {
    "real-time-api": Patience(5.0, idempotent=True),
    "batch-scoring": Patience(300.0, idempotent=False),
    "multi-step-agent": Patience(LONGEST_S, idempotent=False),
    "llm-application": Patience(120.0, idempotent=False),
    "fine-tuned-model": Patience(120.0, idempotent=False),
    "rag": Patience(120.0, idempotent=False),
}


def filled(service: Any) -> Any:
    """*service*, the content of a service.yaml, with missing `traffic` values filled in by tier; anything else unchanged."""
    traffic = service.get("traffic") if isinstance(service, Mapping) else None
    tier = DEFAULTS.get(service["tier"]) if isinstance(traffic, Mapping) and isinstance(service.get("tier"), str) else None
    if not isinstance(traffic, Mapping) or tier is None:
        return service
    timeout_s = traffic.get("timeout_s", tier.timeout_s)
    idempotent = traffic.get("idempotent", tier.idempotent)
    known = {"timeout_s": timeout_s, "idempotent": idempotent}
    if isinstance(timeout_s, int | float) and isinstance(idempotent, bool):
        known["per_try_timeout_s"] = tier.per_try_s(timeout_s, idempotent=idempotent)
    return {**service, "traffic": {**known, **traffic}}


def try_s(traffic: Limits) -> float:
    """Seconds that one try really has, as configured in the proxy."""
    return min(traffic.per_try_timeout_s, traffic.timeout_s) if traffic.idempotent else traffic.timeout_s


def notes(traffic: Limits, *, pins: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """Contradictions within *traffic* or with the *pins* of its models, one sentence each with its remedy."""
    found = []
    if not traffic.idempotent and traffic.per_try_timeout_s < traffic.timeout_s:
        found.append(
            f"traffic.per_try_timeout_s ({traffic.per_try_timeout_s:g} s) has no effect, since requests are not retried; "
            "set idempotent: true if retries do no harm, or remove it"
        )
    limit_s = try_s(traffic)
    key = "per_try_timeout_s" if limit_s < traffic.timeout_s else "timeout_s"
    for pin in pins:
        budget_s = pin.get("params", {}).get("budget_s")
        if pin.get("provider") in _WAITS and isinstance(budget_s, int | float) and budget_s > limit_s:
            found.append(
                f"{pin['provider']} model {pin.get('model')!r} may take {budget_s:g} s by its pin, but traffic.{key} ends a try after "
                f"{limit_s:g} s; raise {key} above it, or lower params.budget_s of the pin"
            )
    return found


def slow(warm_up_s: float | None, traffic: Limits, *, of: str) -> str | None:
    """Warning that a worker's warm-up took longer than a try by *of*'s settings allows; None if it did not, or was never measured."""
    limit_s = try_s(traffic)
    if warm_up_s is None or warm_up_s <= limit_s:
        return None
    again = limit_s < traffic.timeout_s
    key = "per_try_timeout_s" if again else "timeout_s"
    then = "a request that takes as long is abandoned and retried elsewhere" if again else "a request that takes as long is abandoned"
    return f"its warm-up took {warm_up_s:.3g} s, longer than the {limit_s:g} s of a try ({of}: traffic.{key}): {then}; raise {key}, or make the warm-up faster"

"""The load generator's records of flights, and the quality of the answers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One request and what came back. Times are Unix seconds; `bundle` is the header, None if it failed."""

    late: bool
    body: str
    sent: float
    received: float
    status: int
    bundle: str | None
    probability: float | None

    @property
    def failed(self) -> bool:
        return self.status != 200 or self.probability is None


def of(line: Mapping[str, Any]) -> Answer:
    """The answer in one line of the load."""
    rows = (line.get("answer") or {}).get("predictions") or [{}]
    named = {name: line[name] for name in ("late", "body", "sent", "received", "status")}
    return Answer(bundle=line.get("bundle"), probability=rows[0].get("probability"), **named)


def brier(pairs: Iterable[tuple[float, bool]]) -> float:
    """Mean squared error of probabilities against what happened; 0 is perfect, lower is better."""
    errors = [(probability - late) ** 2 for probability, late in pairs]
    return sum(errors) / len(errors) if errors else math.nan

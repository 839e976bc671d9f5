"""What the load generator wrote down, and what it proves: failures, mixed answers, who answered when, how good."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One request and what came back. Times are Unix seconds; `bundle` is the header, None if it failed."""

    number: int
    flight_at: float
    late: bool
    body: str
    sent: float
    received: float
    status: int
    bundle: str | None
    revision: int | None
    parts: Mapping[str, str]
    probability: float | None
    error: str | None

    @property
    def failed(self) -> bool:
        return self.status != 200 or self.probability is None


def read(file: Path) -> Iterator[Answer]:
    """The answers written so far; a line that is just being written is left for the next time."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield _answer(json.loads(line))


def _answer(line: Mapping[str, Any]) -> Answer:
    body = line.get("answer") or {}
    rows = body.get("predictions") or [{}]
    revision = line.get("revision")
    return Answer(
        number=line["n"],
        flight_at=line["flight"],
        late=line["late"],
        body=line["body"],
        sent=line["sent"],
        received=line["received"],
        status=line["status"],
        bundle=line.get("bundle"),
        revision=int(revision) if revision else None,
        parts={name: body[name] for name in ("bundle", "model", "config") if name in body},
        probability=rows[0].get("probability"),
        error=line.get("error"),
    )


def mixed(answers: Iterable[Answer], manifests: Mapping[str, Mapping[str, str]]) -> list[Answer]:
    """Answers whose parts do not all belong to the bundle in their header. *manifests*: bundle id -> part -> digest."""
    wrong = []
    for answer in answers:
        if answer.failed:
            continue
        wanted = {"bundle": answer.bundle, **{part: manifests.get(answer.bundle or "", {}).get(part) for part in ("model", "config")}}
        if any(answer.parts.get(name) != digest for name, digest in wanted.items()):
            wrong.append(answer)
    return wrong


def brier(pairs: Iterable[tuple[float, bool]]) -> float:
    """Mean squared error of probabilities against what happened; 0 is perfect, lower is better."""
    errors = [(probability - late) ** 2 for probability, late in pairs]
    return sum(errors) / len(errors) if errors else math.nan


def paired_by_day(before: list[float], after: list[float], answers: list[Answer]) -> tuple[float, float]:
    """Mean difference of two forecasts' squared errors on the same flights, and its standard error clustered by day.

    Flights of one day share their weather, so days and not flights are the independent units; ignoring that makes the
    error five times too small.
    """
    days: dict[int, list[float]] = defaultdict(list)
    for old, new, answer in zip(before, after, answers, strict=True):
        days[int(answer.flight_at // 86400)].append((new - answer.late) ** 2 - (old - answer.late) ** 2)
    total = sum(len(day) for day in days.values())
    mean = sum(sum(day) for day in days.values()) / total
    spread = sum(sum(value - mean for value in day) ** 2 for day in days.values())
    correction = len(days) / max(len(days) - 1, 1)
    return mean, math.sqrt(spread * correction) / total

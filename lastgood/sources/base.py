"""The contract of a source: what has each arm done since the last call?

A source holds no essential state: its reading position is in the *cursor* that it returns with its answer and receives at the
next call, so a controller that was killed continues where its last stored measurement ended.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lastgood.gates import base
from lastgood.service import gates

Cursor = Mapping[str, Any]
"""Plain JSON, small."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementRequest:
    """Which numbers are wanted, and for which gate.

    `watched` and `beside` are bundle ids; `beside` is None if nothing serves at the same time. `mirrored` means that the watched
    bundle answers copies of requests instead of users, `copied` that it answers copies in addition to its users. `share` is the
    watched arm's configured share of both arms' live traffic, 0 to 1, None where there is no split; `weight` its share of all live
    traffic. `control` means that `beside` stands for its control arm alone, and not for everything that this bundle answers. `since`
    is the start of the analysis (Unix seconds), `flush_s` how often the worker writes its logs.
    """

    gate: gates.AnyGate
    watched: str
    beside: str | None
    mirrored: bool = False
    copied: bool = False
    share: float | None = None
    weight: float | None = None
    control: bool = False
    since: float = 0.0
    flush_s: float = 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SourceReading:
    """The observations since the cursor, oldest first, and the next cursor. No observations: nothing to report yet."""

    observations: Sequence[base.Observation]
    cursor: Cursor


class Source(abc.ABC):
    """The source of the numbers for some kinds of gates."""

    @abc.abstractmethod
    def read(self, asked: MeasurementRequest, *, now: float, cursor: Cursor | None) -> SourceReading:
        """What happened since *cursor* (None: from now on). Takes at most the time-out of *asked.gate*, else two seconds.

        Never raises because the other side is down: that is an observation with `down`. Counters that were reset to zero meanwhile are
        counted from zero.
        """

    def close(self) -> None:  # noqa: B027  # most sources hold nothing
        """Close connections."""

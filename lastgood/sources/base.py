"""The contract of a source: what did each arm do since you were last asked?

A source holds nothing that matters: where it stopped reading is in the *cursor* that it hands out with its answer and gets
back the next time, so a controller that was killed goes on where its last kept measurement ended.
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
    """Whose numbers are wanted, for which gate.

    `watched` and `beside` are bundle ids; `beside` is None if nothing serves at the same time. `mirrored` says that the
    watched bundle answers copies of requests instead of users, `copied` that it answers copies besides its users. `share` is the watched arm's configured share of both
    arms' live traffic, 0 to 1, None where there is no split; `weight` its share of all live traffic. `control` says that `beside` stands for its control arm alone,
    and not for all that this bundle answers. `since` is when the analysis began (Unix seconds), `flush_s` how often the worker writes its logs.
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
    """What came since the cursor, oldest first, and where to go on. No observations: nothing to tell yet."""

    observations: Sequence[base.Observation]
    cursor: Cursor


class Source(abc.ABC):
    """Where the numbers of some kinds of gates come from."""

    @abc.abstractmethod
    def read(self, asked: MeasurementRequest, *, now: float, cursor: Cursor | None) -> SourceReading:
        """What happened since *cursor* (None: from now on). Takes *asked.gate*'s time-out at most, else two seconds.

        Never raises because the other side is down: that is an observation with `down`. Counters that were reset to
        zero meanwhile are counted from zero.
        """

    def close(self) -> None:  # noqa: B027  # most sources hold nothing
        """Close connections."""

"""What all kinds of gates share: the fold of observations, and the reading of it at any moment.

What does not belong here: dead sources, missing traffic, and how long a state has lasted (`gate`).
"""

from __future__ import annotations

import abc
import dataclasses
import math

from lastgood.gates import persistence as persistence_
from lastgood.gates.base import Cause, Mode, Observation, Tally
from lastgood.gates.confidence import Interval
from lastgood.service import gates

SEQUENTIAL, PERSISTENCE = 0.98, 0.02
"""How a gate's alpha is split: the first part, over all time, for the evidence; the second, per day, for rows of windows."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a gate starts with. `reference` is stable's earlier figures, for gates in mode alone; `alpha` is this gate's share."""

    mode: Mode
    alpha: float
    since: float
    reference: Tally | None = None

    @property
    def boundary(self) -> float:
        """Natural log of the e-value at which the gate fails."""
        return -math.log(self.alpha * SEQUENTIAL)

    def level(self, gate: gates.AnyGate) -> float:
        """How improbable a window of *gate* must be to count as over the threshold."""
        return persistence_.level(self.alpha * PERSISTENCE, window_s=gate.window_s, persistence=gate.persistence)

    def windows(
        self, gate: gates.AnyGate, over: persistence_.WindowTest, also: persistence_.WindowTest | None = None
    ) -> persistence_.Windows:
        """The persistence rule of *gate*."""
        return persistence_.Windows(
            window_s=gate.window_s, window_min=gate.window_min, persistence=gate.persistence, since=self.since, over=over, also=also
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The current state of a family; the texts are parts of one sentence.

    `story` describes the observations, `harm` what a pass excludes, `lacks` why it cannot pass yet (empty: too few
    observations). `evidence` and `boundary` are natural logs.
    """

    story: str
    harm: str = ""
    lacks: str = ""
    passes: Cause | None = None
    estimate: float | None = None
    reference: float | None = None
    interval: Interval | None = None
    evidence: float | None = None
    boundary: float | None = None
    streak: int = 0
    persistence: int = 0
    needs: int | None = None


class Family(abc.ABC):
    """One kind of gate: processes observations one at a time, in constant memory."""

    unit = "requests"
    """The unit of `n`, for people."""
    traffic = True
    """Whether a count of zero means that the watched arm has no traffic."""

    @abc.abstractmethod
    def take(self, seen: Observation, *, step: int) -> None:
        """Add one observation of a source that is up."""

    @abc.abstractmethod
    def fails(self) -> Cause | None:
        """The cause for which the gate fails by now, or None. Cheap: called after every observation."""

    @abc.abstractmethod
    def read(self) -> Reading:
        """The complete reading."""

    def both(self) -> bool:
        """Whether it would fail if stable were not over the threshold as well."""
        return False


class Unset(Family):
    """A gate with nothing to compare with; it can neither pass nor fail."""

    def __init__(self, missing: str) -> None:
        self._missing = missing

    def take(self, seen: Observation, *, step: int) -> None:
        """Ignored: there is nothing to learn from it."""

    def fails(self) -> Cause | None:
        return None

    def read(self) -> Reading:
        return Reading(story="nothing to compare with", lacks=self._missing)


def percent(value: float) -> str:
    """A share for people: 5.1 %, 0.52 %."""
    return f"{100 * value:.1f} %" if value == 0 or abs(value) >= 0.01 else f"{100 * value:.2g} %"


def share_text(bad: float, n: float) -> str:
    """A share with its counts: 5.1 % (31 of 612)."""
    return f"{percent(bad / n)} ({bad:,.0f} of {n:,.0f})" if n else "unknown (none yet)"

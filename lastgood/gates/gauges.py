"""Gates without a statistical test: health of a service behind this one, a Prometheus figure, kills, ejections."""

from __future__ import annotations

from lastgood.gates.base import Cause, Observation, Tally
from lastgood.gates.evaluator import Family, Reading, Setup, Unset
from lastgood.service import gates


class Gauge(Family):
    """A figure compared with a limit, with the other arm's, or both. Within a window, values are averaged and probes counted."""

    unit = "probes"
    traffic = False

    def __init__(self, gate: gates.Downstream | gates.Query, setup: Setup, *, limit: float | None, margin: float | None = None) -> None:
        self._gate, self._limit, self._margin = gate, limit, margin
        self._windows = setup.windows(gate, self._over, self._beside_over)
        self._n = 0
        self._figure: float | None = None
        self._reference: float | None = None

    def take(self, seen: Observation, *, step: int) -> None:
        watched, beside = _counted(seen.watched), None if seen.beside is None else _counted(seen.beside)
        if not watched.n:
            return
        self._n += watched.n
        self._figure = _figure(watched)
        self._reference = _figure(beside) if beside and beside.n else None
        self._windows.take(seen.at, watched, beside)

    def _over(self, watched: Tally, beside: Tally | None) -> bool | None:
        figure = _figure(watched)
        over_limit = None if self._limit is None else figure > self._limit
        over_beside = None if self._margin is None or not beside or not beside.n else figure > _figure(beside) + self._margin
        if over_limit is None:
            return over_beside
        return over_limit or bool(over_beside)

    def _beside_over(self, watched: Tally, beside: Tally | None) -> bool:
        """Whether the other arm is over the limit as well, and the watched one not much above it."""
        if self._limit is None or not beside or not beside.n or _figure(beside) <= self._limit:
            return False
        return self._margin is None or _figure(watched) <= _figure(beside) + self._margin

    def fails(self) -> Cause | None:
        return "persistence" if self._windows.failing and not self._windows.mostly_shared else None

    def both(self) -> bool:
        return self._windows.failing and self._windows.mostly_shared

    def read(self) -> Reading:
        over = self._windows.now()
        return Reading(
            story=self._story(),
            harm="a window over the threshold",
            lacks=self._lacks(over=over),
            passes="within" if over is False and self._n >= self._gate.min_samples else None,
            estimate=self._figure,
            reference=self._limit if self._limit is not None else self._reference,
            streak=self._windows.streak,
            persistence=self._gate.persistence,
            needs=max(self._gate.min_samples - self._n, 0) if over is False else None,
        )

    def _lacks(self, *, over: bool | None) -> str:
        if over:
            return f"over the threshold in {self._windows.streak} of {self._gate.persistence} windows in a row"
        return "no value of stable to compare with" if over is None and self._n else ""

    def _story(self) -> str:
        if self._figure is None:
            return f"no value of {self._gate.metric} yet"
        limit = [f"{self._limit:g} allowed"] if self._limit is not None else []
        beside = (
            [f"{self._reference:.4g} of stable, {self._margin:g} more allowed"]
            if self._reference is not None and self._margin is not None
            else []
        )
        return f"{self._gate.metric} {self._figure:.4g} (newest of {self._n:,} probes), {', '.join([*limit, *beside]) or 'no value to compare with'}"


def _counted(tally: Tally) -> Tally:
    """A value as one probe with that total; probes unchanged. A stored probe without a value had the value 0."""
    if tally.value is None:
        return Tally(n=tally.n, total=float(tally.bad))
    return Tally(n=1, total=tally.value)


def _figure(tally: Tally) -> float:
    return tally.total / tally.n


class Events(Family):
    """Consecutive kills or ejections so far, against the number at which the gate fails at once."""

    unit = "measurements"
    traffic = False

    def __init__(self, gate: gates.OutOfMemory | gates.Ejections, *, limit: int, noun: str) -> None:
        self._gate, self._limit, self._noun = gate, limit, noun
        self._looks, self._count = 0, 0.0

    def take(self, seen: Observation, *, step: int) -> None:
        self._looks += max(seen.watched.n, 1)
        self._count = seen.watched.value or 0.0

    def fails(self) -> Cause | None:
        return "events" if self._count >= self._limit else None

    def read(self) -> Reading:
        return Reading(
            story=f"{self._noun}: {self._count:g} in {self._looks:,} measurements, fails at {self._limit}",
            harm=f"{self._limit} {self._noun}",
            passes="within" if self._looks >= self._gate.min_samples else None,
            estimate=self._count,
            reference=float(self._limit),
            needs=max(self._gate.min_samples - self._looks, 0),
        )


def downstream(gate: gates.Downstream, setup: Setup) -> Family:
    """The family of a service behind this one: the share of failed probes, or a query's value, against `max`."""
    return Gauge(gate, setup, limit=gate.max)


def query(gate: gates.Query, setup: Setup) -> Family:
    """The family of a Prometheus figure: in mode alone, `margin` is added to stable's earlier figure, if that is known."""
    if setup.mode == "compare":
        return Gauge(gate, setup, limit=gate.max, margin=gate.margin)
    if gate.max is not None:
        return Gauge(gate, setup, limit=gate.max)
    before = setup.reference
    if before is None or before.value is None or gate.margin is None:
        return Unset("no limit to compare with: no value of an earlier stable is known; set 'max' on this gate")
    return Gauge(gate, setup, limit=before.value + gate.margin)

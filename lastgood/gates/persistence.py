"""The persistence rule: over the threshold in a number of windows in a row. The second test besides `eprocess`.

A window of few requests is over a threshold by chance alone: one bad request of twenty is five percent. Five such windows in
a row are then a matter of hours, on a healthy bundle. So a window of counts is over only if its figure is over the
threshold *and* that would rarely happen by chance (`level`), which bounds false alarms without an assumption about traffic.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from lastgood.gates.base import EMPTY, Tally
from lastgood.gates.eprocess import joined

WindowTest = Callable[[Tally, Tally | None], bool | None]
"""Whether one window is over the threshold; None if that is unknown, so that it neither counts nor interrupts a series."""

DAY_S = 86_400.0


class Windows:
    """Consecutive windows of *window_s*, aligned to *since*, each judged once, on the first observation after its end.

    An observation belongs to the window that contains its `at` (the end of a window belongs to it); if its `at` decreases, it
    belongs to the current window. Windows with fewer than *window_min* requests of the watched arm, and windows that are missing
    altogether, neither count nor break a row. `streak` windows in a row are over; in `shared` of them, *also* holds.
    """

    def __init__(
        self, *, window_s: float, window_min: int, persistence: int, since: float, over: WindowTest, also: WindowTest | None = None
    ) -> None:
        self.window_s, self.persistence = window_s, persistence
        self._window_min, self._since, self._over, self._also = window_min, since, over, also
        self._number = 0
        self.watched: Tally = EMPTY
        self.beside: Tally | None = None
        self.streak = self.shared = 0
        self.last: bool | None = None

    def take(self, at: float, watched: Tally, beside: Tally | None) -> None:
        """Add one observation to its window; closes the previous window if that has ended."""
        number = math.ceil((at - self._since) / self.window_s) - 1
        if number > self._number:
            self._close()
            self._number, self.watched, self.beside = number, EMPTY, None
        self.watched = joined(self.watched, watched)
        if beside is not None:
            self.beside = joined(self.beside or EMPTY, beside)

    @property
    def failing(self) -> bool:
        """Whether enough windows in a row were over; never with a persistence of 0."""
        return 0 < self.persistence <= self.streak

    @property
    def mostly_shared(self) -> bool:
        """Whether *also* holds in at least half of the windows in the row."""
        return self.streak > 0 and 2 * self.shared >= self.streak

    def now(self) -> bool | None:
        """The newest result: that of the last full window, or of the first one while it is open."""
        return self._over(self.watched, self.beside) if self.last is None and self.watched.n else self.last

    def _close(self) -> None:
        over = self._over(self.watched, self.beside) if self.watched.n >= self._window_min else None
        if over is None:
            return
        self.last = over
        shared = bool(over and self._also and self._also(self.watched, self.beside))
        self.streak = self.streak + 1 if over else 0
        self.shared = self.shared + shared if over else 0


def level(alpha: float, *, window_s: float, persistence: int) -> float:
    """How improbable each window must be so that a row of *persistence* occurs by chance at most *alpha* times a day.

    With independent windows, level ** persistence * windows in a day = alpha.
    """
    return math.pow(alpha * min(window_s / DAY_S, 1.0), 1 / max(persistence, 1))


def tail(bad: int, n: int, p: float) -> float:
    """Probability of *bad* or more of *n* at rate *p*; 1 if *bad* is no more than the mean, where it is not needed."""
    if bad <= n * p:
        return 1.0
    if p <= 0:
        return 0.0
    log = math.lgamma(n + 1) - math.lgamma(bad + 1) - math.lgamma(n - bad + 1) + bad * math.log(p) + (n - bad) * math.log1p(-p)
    term = total = 1.0
    for count in range(bad, n):
        term *= (n - count) / (count + 1) * p / (1 - p)
        total += term
        if term < total * 1e-12:
            break
    return math.exp(log) * total


def normal_tail(z: float) -> float:
    """Probability that a standard normal variable exceeds *z*."""
    return 0.5 * math.erfc(z / math.sqrt(2))

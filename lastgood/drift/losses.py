"""Whether the answers have become worse than on the reference: the loss of each window, in a sequential test of its own.

Live traffic may look unchanged while its meaning changes slowly; then only labels show it. The loss is watched as one more
column. Its evidence is summed over windows, so that a little each day is found as surely as much at once. The test is an e-process
(`gates.eprocess`): under the hypothesis that the mean loss stays below a limit, less than one bundle in a hundred (a fifth of `alpha`)
has a false alarm of its loss in a year, however often it is evaluated. The limit is the mean on the reference, plus the possible
error of that mean, plus `drift.decide.margin`.

Labels come late: a window is scored when it has its own (`Pending`). A service without labels in its reference has no such column.

What does not belong here: reading rows (`window`), the other columns (`verdict`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lastgood.drift import comparison
from lastgood.drift.reference import LABEL, PROBABILITY, Sample
from lastgood.drift.verdict import LOSS, LOSS_SHARE, Column, WindowOutcome
from lastgood.gates import eprocess
from lastgood.service.drift import Drift

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

Block = tuple[int, float]
"""Labelled rows of one stretch of `cluster_s`, and their mean loss: one observation."""

BOUND = 0.25
"""Share of the loss's alpha that covers the error of the reference's own mean; the test has the rest."""
FIRST = 0.5
"""Share of the test's alpha for the test that begins with the bundle; those that begin within a year share the rest."""
WEEK_S, WEEKS = 7 * 86_400.0, 53
MOST_TESTS = 26
RECOVERED = 0.05
"""Level at which a loss that had become worse counts as below the limit again."""
GROUPS, MIN_GROUPS = 10, 6
"""Number of parts of the reference whose means give the error of the overall mean. Consecutive days are dependent, so parts are long."""
POOLED = 10
"""Labelled rows per observation; the mean of fewer is too skewed for a test that relies on symmetry."""
MOST_BLOCKS = 24
"""Observations of one window."""
AGES = (0, 1, 2, 4, 8, 16, 31)
"""Number of windows after its labels were due at which a window without them is read again."""
WHOLE = 0.9
"""From this share of labelled rows on, no more labels are waited for."""
SMALLEST = 1e-9


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The mean loss on the reference, the limit it has to exceed to count as worse, and the standard deviation of one observation."""

    score: str
    mean: float
    limit: float
    spread: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Labels of one window at one look: all rows read, those with a label, and the observations; none while more labels are waited for."""

    window: int
    rows: int
    labelled: int
    blocks: tuple[Block, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "blocks": [list(block) for block in self.blocks]}


def from_json(value: Mapping[str, Any]) -> Scored:
    """The value written by `to_json`."""
    return Scored(**{**value, "blocks": tuple((int(rows), float(mean)) for rows, mean in value["blocks"])})


def of_rows(sample: Sample, score: str) -> Floats:
    """The loss of each row of *sample* that has a label and a probability, in order of time."""
    import numpy as np

    if LABEL not in sample.columns or PROBABILITY not in sample.columns:
        return np.zeros(0)
    label, forecast = sample.columns[LABEL], sample.columns[PROBABILITY]
    if label.dtype.kind != "f" or forecast.dtype.kind != "f":
        return np.zeros(0)
    known = np.isfinite(label) & np.isfinite(forecast)
    return comparison.losses(score, forecast[known], label[known])


def baseline(reference: Sample, rules: Drift) -> Baseline | None:
    """What the loss of a window is compared with; None if *reference* has too few labelled rows, or no labels."""
    import numpy as np
    from scipy import stats

    loss = of_rows(reference, rules.decide.score)
    groups = min(GROUPS, len(loss) // POOLED)
    if groups < MIN_GROUPS or not np.isfinite(loss).all():
        return None
    error = float(np.std([part.mean() for part in np.array_split(loss, groups)], ddof=1)) / math.sqrt(groups)
    reach = float(stats.t.ppf(1 - rules.alpha * LOSS_SHARE * BOUND, groups - 1)) * error
    return Baseline(
        score=rules.decide.score,
        mean=float(loss.mean()),
        limit=float(loss.mean()) + reach + rules.decide.margin,
        spread=max(_spread(reference, loss, rules), SMALLEST),
    )


def _spread(reference: Sample, loss: Floats, rules: Drift) -> float:
    """Standard deviation of the mean loss of stretches of `cluster_s`."""
    import numpy as np

    known = np.isfinite(reference.columns[LABEL]) & np.isfinite(reference.columns[PROBABILITY])
    _, place = np.unique(np.floor(reference.at[known] / rules.decide.cluster_s), return_inverse=True)
    counts, sums = np.bincount(place), np.bincount(place, weights=loss)
    pool = Pool()
    means = [mean for _, mean in pool.full(zip(counts.tolist(), (sums / counts).tolist(), strict=True))]
    return float(np.std(means, ddof=1)) if len(means) > 1 else float(loss.std())


def blocks(loss: Floats, rules: Drift) -> tuple[Block, ...]:
    """The observations in the losses of a window, which are in order of time."""
    import numpy as np

    wanted = round(rules.window_s / rules.decide.cluster_s)
    count = max(1, min(wanted, MOST_BLOCKS, len(loss) // POOLED))
    return tuple((len(part), float(part.mean())) for part in np.array_split(loss, count) if len(part))


class Pool:
    """Joins observations until they have POOLED rows."""

    def __init__(self) -> None:
        self._rows, self._total = 0, 0.0

    def full(self, found: Iterator[Block] | Sequence[Block]) -> Iterator[Block]:
        """The joined observations; the remainder waits for the next."""
        for rows, mean in found:
            self._rows, self._total = self._rows + rows, self._total + rows * mean
            if self._rows >= POOLED:
                yield self._rows, self._total / self._rows
                self._rows, self._total = 0, 0.0


class Track:
    """The test over all windows of a bundle. `failing` from the moment it fails until the loss is below the limit with equal certainty.

    The running tests began a week apart, each with its part of alpha: a single test that has seen a year of calm would be slow to
    detect a later change. The first has half of alpha, the weekly ones of a year share the rest.
    """

    def __init__(self, baseline: Baseline, *, alpha: float) -> None:
        self.baseline, self.failing = baseline, False
        self._alpha = alpha * LOSS_SHARE * (1 - BOUND)
        self._tests, self._recovery = _Tests(), _Tests()
        self._newest = -math.inf
        self._pool = Pool()

    def restart(self) -> None:
        """Restart: what was found so far is settled."""
        self.failing = False
        self._tests, self._pool = _Tests(), Pool()

    @property
    def p(self) -> float:
        """The evidence so far as a p-value for all tests of a year together; valid at all times simultaneously."""
        return self._tests.p

    def take(self, found: Sequence[Block], *, at: float) -> None:
        """Take in the observations of one more window, which began at Unix time *at*."""
        for _, mean in self._pool.full(found):
            self._grow((mean - self.baseline.limit) / self.baseline.spread, at=at)

    def _grow(self, above: float, *, at: float) -> None:
        if self.failing:
            self._recovery.grow(-above)
            if self._recovery.p <= RECOVERED:
                self.restart()
            return
        if at >= self._newest + WEEK_S:
            self._tests.begin(share=FIRST if self._newest == -math.inf else (1 - FIRST) / WEEKS)
            self._newest = at
        self._tests.grow(above)
        if self.p <= self._alpha:
            self.failing, self._recovery = True, _Tests()
            self._recovery.begin(share=1.0)

    def column(self, scored: Sequence[Scored]) -> Column:
        """The loss as a column of the look at which the windows *scored* were read."""
        known = [one for one in scored if one.blocks]
        rows, labelled = (sum(getattr(one, name) for one in known or scored) for name in ("rows", "labelled"))
        covered = f"{labelled:,} of {rows:,} rows have a label"
        if not known:
            outcome: WindowOutcome = "fail" if self.failing else "inconclusive"
            return Column(name=LOSS, outcome=outcome, why=f"{self._standing()}no window has its labels yet: {covered}", p=self.p)
        loss = sum(count * mean for one in known for count, mean in one.blocks) / labelled
        base = self.baseline
        why = f"{self._standing()}{base.score} {loss:.4f}, on the reference {base.mean:.4f}, usual is at most {base.limit:.4f}; {covered}"
        return Column(
            name=LOSS,
            outcome="fail" if self.failing else "pass",
            why=why,
            measure=base.score,
            distance=loss,
            threshold=base.limit,
            p=self.p,
            missing=1 - labelled / rows,
        )

    def _standing(self) -> str:
        return "answers have become worse; " if self.failing else ""


class _Tests:
    """E-processes side by side: each a mixture of bets that the loss is above the limit, with its own start time and share of alpha."""

    def __init__(self) -> None:
        import numpy as np

        self._prior = np.log(np.array(eprocess.EFFECT_PRIOR) / math.fsum(eprocess.EFFECT_PRIOR))
        self._sums: Floats = np.zeros((0, len(self._prior)))

    @property
    def p(self) -> float:
        """The smallest of 1 / (share * e-value): ever at most alpha with a probability of at most alpha times the sum of the shares."""
        return math.exp(-max(0.0, float(self._wealth().max()))) if len(self._sums) else 1.0

    def begin(self, *, share: float) -> None:
        """Add a process. If there are many, the poorest is dropped, which costs the others none of their guarantee."""
        import numpy as np

        if len(self._sums) >= MOST_TESTS:
            self._sums = np.delete(self._sums, int(np.argmin(self._wealth())), axis=0)
        self._sums = np.vstack([self._sums, self._prior + math.log(share)])

    def grow(self, above: float) -> None:
        """Take in one observation, in standard deviations above the limit."""
        self._sums = self._sums + eprocess.symmetric(above)

    def _wealth(self) -> Floats:
        """Log of share * e-value of each."""
        import numpy as np

        found: Floats = np.logaddexp.reduce(self._sums, axis=1)
        return found


class Pending:
    """The windows that still wait for their labels. Bounded: after the last of AGES a window counts with the labels it has."""

    def __init__(self, rules: Drift) -> None:
        self._lag = math.ceil(rules.decide.label_delay_s / rules.window_s)
        self._done: set[int] = set()
        self._labelled: dict[int, int] = {}
        self.newest = -1
        """The newest window that was scored."""

    @property
    def late(self) -> bool:
        """Whether the labels of a window are not due before a later look."""
        return self._lag > 0

    def due(self, number: int) -> list[int]:
        """The windows to read at the look at window *number*, oldest first."""
        found = sorted(number - self._lag - age for age in AGES)
        return [window for window in found if window >= 0 and window not in self._done]

    def whole(self, found: Scored, *, number: int) -> bool:
        """Whether the labels of *found*, read at the look at window *number*, are as complete as can be determined."""
        if not found.labelled:
            return False
        last = number - self._lag - found.window >= AGES[-1]
        return last or self._lag > 0 or found.labelled >= WHOLE * found.rows or found.labelled == self._labelled.get(found.window)

    def take(self, found: Scored, *, number: int) -> None:
        """Remember what was read at the look at window *number*."""
        self._labelled[found.window] = found.labelled
        if found.blocks:
            self._done.add(found.window)
            self.newest = max(self.newest, found.window)
        oldest = number - self._lag - AGES[-1]
        self._done = {window for window in self._done if window >= oldest}
        self._labelled = {window: count for window, count in self._labelled.items() if window >= oldest}

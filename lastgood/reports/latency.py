"""Answer latency as a curve: the share of answers that was ready within a given number of milliseconds."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

SHOWN_S = 3600.0
"""Maximum seconds of the workers' log behind a curve, the last before the end: millions of rows would add nothing."""

PER_DECADE = 90
"""Buckets per decade (1 to 10 ms, 10 to 100 ms and so on); a bucket is 1 to 10 % wide, like those of the proxy."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """`share[i]` of `n` answers (0 to 1) took at most `ms[i]` milliseconds; `ms` is increasing. `by` names who measured."""

    n: int
    ms: tuple[float, ...]
    share: tuple[float, ...]
    by: str

    def at(self, share: float) -> float:
        """The milliseconds within which this *share* of the answers was ready."""
        return next((ms for ms, reached in zip(self.ms, self.share, strict=True) if reached >= share - 1e-12), self.ms[-1])


def of_buckets(counts: Mapping[float, int], *, by: str = "the proxy") -> Curve:
    """The curve for *counts* by the lower bucket edge in ms; a bucket's requests count as ready at its upper edge."""
    ordered = sorted(counts.items())
    total = sum(count for _, count in ordered)
    reached = itertools.accumulate(count for _, count in ordered)
    return Curve(n=total, ms=tuple(_upper(low) for low, _ in ordered), share=tuple(count / total for count in reached), by=by)


def _upper(low: float) -> float:
    """The proxy truncates durations to whole ms and divides a decade into 90 buckets."""
    return low + max(10.0 ** (math.floor(math.log10(low)) - 1), 1.0) if low > 0 else 1.0


def logged(folder: Path, wanted: Sequence[str], *, since: float, until: float) -> dict[str, Curve]:
    """One curve for each bundle of *wanted* that answered, copies included, from the workers' own log in *folder*.

    Raises ImportError without the extra that reads the log, Damaged or OSError for a log that cannot be read.
    """
    from lastgood.serving import inference_log

    if not folder.is_dir():
        return {}
    rows = inference_log.read_predictions(folder, since=max(since, until - SHOWN_S), until=until, columns=("bundle", "latency_us"))
    if rows is None:
        return {}
    found = {}
    for digest in wanted:
        import pyarrow.compute as pc

        values = rows.filter(pc.equal(rows["bundle"], digest))["latency_us"].drop_null().to_numpy()
        if len(values):
            found[digest] = _of_values(values)
    return found


def _of_values(micros: Iterable[float]) -> Curve:
    import numpy as np

    ms = np.asarray(micros, dtype=float) / 1000
    edges = np.logspace(-3, 6, 9 * PER_DECADE + 1)
    counts, _ = np.histogram(np.clip(ms, edges[0], edges[-1]), bins=edges)
    kept = np.flatnonzero(counts)
    reached = np.cumsum(counts)[kept] / len(ms)
    return Curve(n=len(ms), ms=tuple(edges[kept + 1].tolist()), share=tuple(reached.tolist()), by="the workers")

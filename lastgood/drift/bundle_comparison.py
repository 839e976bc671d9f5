"""Two bundles, both whole, compared on the same labelled live rows: one would have answered better, or the result is inconclusive.

What does not belong here: which two, and what follows (`decision`); the statistics (`comparison`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lastgood import release
from lastgood.bundle.manifest import short
from lastgood.drift import bundle_reference as drift_reference
from lastgood.drift import comparison, reference
from lastgood.drift import watch as drift_watch
from lastgood.serving import inference_log

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from lastgood.serving.app import Loaded

KIND = "drift-beside"
REFUSED = 0.01
"""If one of the two rejects a larger share of the rows than this, they cannot be compared."""
MOST = 200_000
"""Number of rows compared; of more, every second, fourth, ... request counts."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The serving bundle compared with another; `compared` are the numbers, above 0 if the serving one is worse; None if inconclusive."""

    bundle: str
    other: str
    why: str
    since: float
    until: float
    compared: comparison.Comparison | None = None

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "compared": self.compared.to_json() if self.compared else None}


def compare_with_stable(ctx: release.Context, what: drift_watch.DriftWatch, other: str, *, since: float, now: float) -> Comparison:
    """Compare *other* with the serving bundle on what was answered since *since* and has its labels by *now* (Unix seconds).

    Changes nothing. A bundle that was trained on these very rows knows their labels and looks better than it is. Raises
    what loading a bundle raises.
    """
    both = {digest: drift_reference.load(ctx.settings, ctx.ledger.bundle(digest)) for digest in (what.bundle, other)}
    until = now - what.rules.decide.label_delay_s  # of younger rows only the quick labels are known
    found = rows(ctx, what, both[what.bundle], since=since, until=until)
    said = Comparison(why="no request was answered in that time", bundle=what.bundle, other=other, since=since, until=until)
    if found is None:
        return said
    compared = on_labels(both, found, what, other=other, alpha=what.rules.decide.alpha)
    if isinstance(compared, str):
        return dataclasses.replace(said, why=compared)
    return dataclasses.replace(said, why=comparison_sentence(compared, what, other=other), compared=compared)


def rows(ctx: release.Context, what: drift_watch.DriftWatch, loaded: Loaded, *, since: float, until: float) -> pa.Table | None:
    """What users were answered by the serving bundle (*loaded*), with `label` where known; thinned evenly if there is too much."""
    fields = [*loaded.runtime.Request.model_fields, reference.LABEL]
    return drift_watch.read(ctx, what, since=since, until=until, columns=fields, most=MOST).table


def on_labels(
    both: Mapping[str, Loaded], table: pa.Table, what: drift_watch.DriftWatch, *, other: str, alpha: float
) -> comparison.Comparison | str:
    """The serving bundle and *other* on the labelled rows of *table*, or why it is inconclusive; bounds hold with 1 - *alpha*."""
    import pyarrow.compute as pc

    rules = what.rules.decide
    known = table.filter(pc.is_valid(table["label"]))
    if known.num_rows < rules.min_rows:
        return f"{known.num_rows} labelled rows; a comparison needs {rules.min_rows}, and without labels no bundle is switched"
    mine, others = (
        drift_reference.forecast(both[digest], inference_log.requests(known, both[digest].runtime.Request))
        for digest in (what.bundle, other)
    )
    if all(value is None for value in (*mine, *others)):
        why = (
            "its answers are not probabilities, and feedback on one bundle's answers does not apply to another's; to compare them, release"
        )
        return f"{why} {short(other)} as a candidate, whose gates do"
    usable = [number for number, pair in enumerate(zip(mine, others, strict=True)) if None not in pair]
    if len(usable) < (1 - REFUSED) * known.num_rows:
        return f"{short(other)} or {short(what.bundle)} does not accept {known.num_rows - len(usable)} of {known.num_rows} rows"
    compared = _paired(mine, others, usable, known, what, alpha=alpha)
    if compared.low is None or compared.high is None or not math.isfinite(compared.difference):
        return f"all {compared.rows} labelled rows fall into one stretch of {rules.cluster_s:g} s; wait for more stretches"
    return compared


def comparison_sentence(compared: comparison.Comparison, what: drift_watch.DriftWatch, *, other: str) -> str:
    """The numbers as a sentence."""
    return (
        f"{what.rules.decide.score} of {short(what.bundle)} is {compared.first:.4f}, that of {short(other)} {compared.second:.4f} on the same "
        f"{compared.rows:,} rows in {compared.clusters} stretches; the difference is between {compared.low:+.4f} and {compared.high:+.4f}"
    )


def _paired(
    mine: list[float | None], others: list[float | None], usable: list[int], known: pa.Table, what: drift_watch.DriftWatch, *, alpha: float
) -> comparison.Comparison:
    import numpy as np

    def column(values: list[Any]) -> npt.NDArray[np.float64]:
        return np.array([values[number] for number in usable], dtype=np.float64)

    label = column(known["label"].to_pylist())
    losses = [comparison.losses(what.rules.decide.score, column(list(one)), label) for one in (mine, others)]
    clusters = np.floor(column(_moments(known, what.rules.time)) / what.rules.decide.cluster_s)
    return comparison.paired(losses[0], losses[1], clusters, alpha=alpha)


def _moments(table: pa.Table, time: str) -> list[float]:
    """Unix seconds of each row, on its own clock if it has one."""
    import pyarrow as pa

    # Converted via numbers: an older log may hold a time outside the range of our calendars.
    column = table[f"{inference_log.FEATURE}{time}" if time else "at"]
    return [one / 1e6 for one in column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_pylist()]

"""Whether the rollback target is of any use now, compared with its own reference.

It may be better than the serving bundle and still be lost: a rollback would then only exchange one useless bundle for another,
quarantine one, and hide that a new one is needed.

    with labels in its reference   its loss has risen by at least LOST of the rise of the serving bundle's loss
    without                        the rows are as far from its reference as from that of the serving bundle
    by features                    a feature of its code is as far from its training as the worst of the serving bundle's

What does not belong here: which of the two is better (`comparison`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lastgood import errors, release
from lastgood.bundle.manifest import short
from lastgood.drift import bundle_reference as drift_reference
from lastgood.drift import distances, losses, verdict, window
from lastgood.drift.comparison import Comparison
from lastgood.drift.judging import DriftWatch
from lastgood.drift.reference import LABEL, PROBABILITY

if TYPE_CHECKING:
    import pyarrow as pa

LOST = 0.5
"""A rollback has to cure more than this part of the harm."""
FAR = 0.5
"""Mean distance of the columns from which the rows count as another world: standard deviations, or Jensen-Shannon distance."""
AS_FAR = 0.9
"""A distance counts as equally far if it is at least this part of the other."""


def expected(ctx: release.Context, what: DriftWatch, digest: str) -> float | None:
    """The mean score of a bundle on its own reference: its quality when built. None if the reference is absent or has no labels."""
    reference = drift_reference.of_bundle(ctx.settings, ctx.ledger.bundle(digest))
    loss = losses.of_rows(reference, what.rules.decide.score)
    return float(loss.mean()) if len(loss) else None


def by_labels(ctx: release.Context, what: DriftWatch, compared: Comparison, rows: pa.Table, *, target: str) -> str | None:
    """Why *target* is as useless on *rows* as the serving bundle, although its score is better; None if it is not."""
    try:
        before = expected(ctx, what, what.bundle), expected(ctx, what, target)
        far = {digest: _distance(ctx, what, digest, rows) for digest in (what.bundle, target)} if before[1] is None else {}
    except errors.NotFound:
        return None  # built before drift was watched: it contains no reference to compare with
    if before[1] is not None:
        return _by_loss(compared, what, before[0], before[1], target=target)
    mine, others = far[what.bundle], far[target]
    if others < FAR or others < AS_FAR * mine:
        return None
    return f"live traffic is {others:.2g} from the reference of {short(target)}, from that of {short(what.bundle)} {mine:.2g}"


def _by_loss(compared: Comparison, what: DriftWatch, before: float | None, target_before: float, *, target: str) -> str | None:
    risen = compared.second - target_before
    harm = compared.first - (target_before if before is None else before)
    if risen <= what.rules.decide.margin or risen < LOST * harm:
        return None
    return (
        f"on its own reference {short(target)} had {target_before:.4f}, it has lost {risen:.4f} since, and {short(what.bundle)} {harm:.4f}"
    )


def _distance(ctx: release.Context, what: DriftWatch, digest: str, rows: pa.Table) -> float:
    """Mean distance of the fields of *rows* from the reference of a bundle."""
    reference = drift_reference.of_bundle(ctx.settings, ctx.ledger.bundle(digest))
    sample = window.of_table(rows, time=what.rules.time).sample
    names = [name for name in sample.columns if name in reference.columns and name not in (LABEL, PROBABILITY, *what.rules.ignore)]
    found = [distances.value(reference.known(name), sample.columns[name]) for name in names]
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if known else 0.0


def by_features(mine: verdict.WindowVerdict | None, others: verdict.WindowVerdict | None) -> str | None:
    """Why a rollback to code that computes other features of the rows would not help; None if it would.

    *mine* are the features that the serving bundle's code computes, compared with its training, *others* those of the target. What lies as far off
    for both, a season for example, a rollback does not make worse: a feature counts by how much farther off the target's is.
    """
    if mine is None or others is None:
        return None
    own = _distances(mine)
    beyond = {name: distance - own.get(name, 0.0) for name, distance in _distances(others).items()}
    if not own or not beyond:
        return None
    name = max(beyond, key=beyond.__getitem__)
    if beyond[name] < FAR or beyond[name] < AS_FAR * max(own.values()):
        return None
    return f"its feature {name} is {_distances(others)[name]:.2g} standard deviations from what it was trained on"


def _distances(compared: verdict.WindowVerdict) -> dict[str, float]:
    return {column.name: column.distance for column in compared.columns if column.distance is not None}

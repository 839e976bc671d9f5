"""The verdict on one window: pass, fail, inconclusive, or broken data, column by column, with the numbers.

broken          no rows; a column that is absent, nearly all missing, never seen before, or outside everything seen
fail            a distance that is large and unusual, or many more missing or never-seen values than in the reference
inconclusive    too few rows, or a reference too short to determine what is usual for such a window

A column that has drifted from the reference but looks as it did when an alarm was decided as `keep` passes: that state is usual too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from lastgood.drift import distances
from lastgood.drift import reference as drift_reference_file
from lastgood.drift.calibration import Calibration, Odd
from lastgood.drift.reference import Sample
from lastgood.service.drift import Drift

WindowOutcome = Literal["pass", "fail", "inconclusive", "broken"]
LOSS = "loss of answers"
"""Name of the column with the loss; no field of a request has a space in its name."""
LOSS_SHARE = 0.2
"""Share of `drift.alpha` for the loss where it is watched; the other columns share the rest."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of the window, compared with the reference. Shares are of all rows; `measure` is empty without a distance.

    `p` is corrected for all columns and for dependent rows; `p_rows` is the test's own, as for independent rows.
    """

    name: str
    outcome: WindowOutcome
    why: str
    measure: str = ""
    distance: float | None = None
    threshold: float | None = None
    p: float | None = None
    p_rows: float | None = None
    missing: float = 0.0
    missing_before: float = 0.0
    strange: float = 0.0
    """Share of rows whose value the reference never contained: another category, or outside its range."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WindowVerdict:
    """The verdict on the window, in one sentence and by column; the worst first."""

    outcome: WindowOutcome
    why: str
    rows: int
    columns: tuple[Column, ...] = ()

    @property
    def failed(self) -> tuple[str, ...]:
        """The columns that have drifted or are broken."""
        return tuple(sorted(one.name for one in self.columns if one.outcome in ("fail", "broken")))

    def to_json(self) -> dict[str, Any]:
        return {"outcome": self.outcome, "why": self.why, "rows": self.rows, "columns": [one.to_json() for one in self.columns]}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a column looked like, over this many windows, when an alarm was decided as `keep`."""

    values: distances.ReferenceColumn
    windows: int


NOTHING_KEPT: Mapping[str, Kept] = MappingProxyType({})


def of_window(
    window: Sample,
    reference: Sample,
    usual: Calibration | None,
    rules: Drift,
    *,
    trouble: Sequence[str] = (),
    kept: Mapping[str, Kept] = NOTHING_KEPT,
    loss: Column | None = None,
    quiet: bool = False,
) -> WindowVerdict:
    """The verdict on *window* against *reference* and what is *usual* for it. *trouble* names the part of the log that cannot be read.

    *kept* is, by column, what else is usual, *loss* the column of the loss, and *quiet* means that no rows are expected.
    """
    scores = (loss,) if loss is not None else ()
    if trouble:
        return WindowVerdict(outcome="broken", why="; ".join(trouble), rows=window.rows, columns=scores)
    if not window.rows and quiet:
        return _few_rows("no row, as is usual in these hours (drift.quiet)", scores, rows=0)
    if not window.rows:
        why = "no rows in the window; check that requests arrive and are logged"
        return WindowVerdict(outcome="broken", why=why, rows=0, columns=scores)
    if loss is not None:
        rules = rules.model_copy(update={"alpha": rules.alpha * (1 - LOSS_SHARE)})
    columns = [_column(name, window, reference, usual, rules, kept.get(name)) for name in reference.columns if name not in rules.ignore]
    return _summed_up([*columns, *scores], rows=window.rows, rules=rules)


def _summed_up(columns: Sequence[Column], *, rows: int, rules: Drift) -> WindowVerdict:
    order: Mapping[WindowOutcome, int] = {"broken": 0, "fail": 1, "inconclusive": 2, "pass": 3}
    ordered = tuple(sorted(columns, key=lambda one: (order[one.outcome], -_excess(one), one.name)))
    by_outcome = {outcome: [one for one in ordered if one.outcome == outcome] for outcome in order}
    if broken := by_outcome["broken"]:
        return WindowVerdict(outcome="broken", why=_told(broken), rows=rows, columns=ordered)
    if rows < rules.min_rows:
        why = f"{rows} rows, but a verdict needs {rules.min_rows}; make windows longer, or lower drift.min_rows"
        return _few_rows(why, ordered, rows=rows)
    if failed := by_outcome["fail"]:
        return WindowVerdict(outcome="fail", why=_told(failed), rows=rows, columns=ordered)
    if by_outcome["inconclusive"] and not by_outcome["pass"]:
        return WindowVerdict(outcome="inconclusive", why=_told(by_outcome["inconclusive"]), rows=rows, columns=ordered)
    return WindowVerdict(outcome="pass", why=f"{len(by_outcome['pass'])} columns as usual over {rows:,} rows", rows=rows, columns=ordered)


def _few_rows(why: str, columns: tuple[Column, ...], *, rows: int) -> WindowVerdict:
    """The rows of such a window are inconclusive by themselves; the loss has the evidence of many windows."""
    worse = [one for one in columns if one.name == LOSS and one.outcome == "fail"]
    if worse:
        return WindowVerdict(outcome="fail", why=_told(worse), rows=rows, columns=(*worse, *(one for one in columns if one not in worse)))
    return WindowVerdict(outcome="inconclusive", why=why, rows=rows, columns=columns)


def _excess(column: Column) -> float:
    if column.distance is None or not column.threshold:
        return 0.0
    return column.distance / column.threshold


def _told(columns: Sequence[Column], *, most: int = 3) -> str:
    more = f" and {len(columns) - most} more columns" if len(columns) > most else ""
    return "; ".join(f"{one.name}: {one.why}" for one in columns[:most]) + more


def _column(name: str, window: Sample, reference: Sample, usual: Calibration | None, rules: Drift, kept: Kept | None) -> Column:
    old = reference.known(name)
    found = _beside(name, window, old, usual, rules, seen=old)
    if kept is None or found.outcome not in ("fail", "broken"):
        return found
    # One state was seen in few windows, so its mean is as uncertain as that of the window compared with it.
    wider = math.sqrt(1 + 1 / kept.windows)
    again = _beside(name, window, kept.values, usual, rules, seen=old, wider=wider)
    return found if again.outcome in ("fail", "broken") else dataclasses.replace(again, why=f"{again.why}, as when it was kept")


def _beside(
    name: str,
    window: Sample,
    old: distances.ReferenceColumn,
    usual: Calibration | None,
    rules: Drift,
    *,
    seen: distances.ReferenceColumn,
    wider: float = 1.0,
) -> Column:
    """A column of *window* compared with *old*, with thresholds *wider* by a factor. Values that occur in *seen* do not count as new."""
    before = old.missing
    if name == drift_reference_file.LABEL:
        # Labels come late, or never; which of them have arrived is not a property of live traffic.
        before, window = 0.0, Sample(at=window.at, columns={name: distances.present(window.columns.get(name, old.values[:0]))})
    if name not in window.columns:
        return Column(name=name, outcome="broken", why="the column is not in the log", missing=1.0, missing_before=before)
    new = window.columns[name]
    missing, strange = distances.missing(new), min(distances.strange(one, new) for one in {old, seen})
    found = Column(name=name, outcome="broken", why="", missing=missing, missing_before=before, strange=strange)
    hard = _hard(old, new, found, rules)
    if hard is not None:
        return dataclasses.replace(found, why=hard)
    distance = distances.between(old, new)
    if distance is not None:
        found = dataclasses.replace(found, measure=distance.measure, distance=distance.value, p_rows=distance.p)
    if distance is not None and usual is not None and name in usual.usual:
        threshold = max(rules.min_effect, wider * usual.threshold(name, rules.alpha))
        found = dataclasses.replace(found, threshold=threshold, p=usual.p(name, distance.value / wider))
    outcome, why = _soft(found, usual.odd.get(name, Odd()) if usual is not None else Odd(), rules)
    return dataclasses.replace(found, outcome=outcome, why=why)


def _soft(found: Column, seen: Odd, rules: Drift) -> tuple[WindowOutcome, str]:
    """The result of the numbers of a column that is not broken."""
    if found.distance is not None and found.threshold is not None and found.distance > found.threshold:
        return "fail", _how_far(found)
    # Missing values come in stretches too: failing takes more than any stretch had.
    if found.missing >= found.missing_before + rules.missing and found.missing > seen.missing:
        return "fail", _what_is_odd(found)
    if found.strange >= rules.missing and found.strange > seen.strange:
        return "fail", _what_is_odd(found)
    if found.distance is None:
        return "inconclusive", "no value in the reference or in the window"
    if found.threshold is None:
        return "inconclusive", "the reference is too short to show what is usual for such a window"
    return "pass", "as usual"


def _hard(old: distances.ReferenceColumn, new: drift_reference_file.Values, found: Column, rules: Drift) -> str | None:
    """Why the column is broken; None if it is not."""
    if found.missing >= rules.broken > found.missing_before:
        return f"{100 * found.missing:.0f} % of the values are missing, compared with {100 * found.missing_before:.0f} % in the reference"
    if old.numeric != drift_reference_file.is_numeric(new) and not old.empty and len(distances.present(new)):
        kinds = ["numbers" if numeric else "text" for numeric in (drift_reference_file.is_numeric(new), old.numeric)]
        return f"it holds {kinds[0]}, but {kinds[1]} in the reference"
    if found.strange >= rules.broken:
        return f"{100 * found.strange:.0f} % of the values are {_of_what_kind(old)}; did a unit or a code change?"
    return None


def _of_what_kind(old: distances.ReferenceColumn) -> str:
    return "outside everything in the reference" if old.numeric else "never seen in the reference"


def _how_far(found: Column) -> str:
    unit = "standard deviations" if found.measure == "wasserstein" else "Jensen-Shannon"
    return f"{found.distance:.3g} {unit} from the reference, usual is at most {found.threshold:.3g} (p {found.p:.2g})"


def _what_is_odd(found: Column) -> str:
    return (
        f"{100 * found.missing:.1f} % of the values are missing (in the reference {100 * found.missing_before:.1f} %), "
        f"{100 * found.strange:.1f} % were never seen there"
    )

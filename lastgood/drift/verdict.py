"""What one window comes to: pass, fail, inconclusive, or broken data, column by column, with the numbers.

broken          no rows; a column that is not there, nearly all missing, never seen before, or outside everything seen
fail            a distance that is large and unusual, or many more missing or never-seen values than in the reference
inconclusive    too few rows, or a reference too short to know what is usual for such a window
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lastgood.drift import distances
from lastgood.drift import reference as references
from lastgood.drift.calibration import Calibration, Odd
from lastgood.drift.reference import Sample
from lastgood.service.drift import Drift

Outcome = Literal["pass", "fail", "inconclusive", "broken"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What a column of the window is, beside the reference. Shares are of all rows; `measure` is empty without a distance.

    `p` is corrected for all columns and for rows that depend on each other, `p_rows` is the test's own, as for independent rows.
    """

    name: str
    outcome: Outcome
    why: str
    measure: str = ""
    distance: float | None = None
    threshold: float | None = None
    p: float | None = None
    p_rows: float | None = None
    missing: float = 0.0
    missing_before: float = 0.0
    strange: float = 0.0
    """Share of rows whose value the reference has never seen: another category, or outside its range."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the window comes to, in one sentence and by column; the worst first."""

    outcome: Outcome
    why: str
    rows: int
    columns: tuple[Column, ...] = ()

    @property
    def failed(self) -> tuple[str, ...]:
        """The columns that have drifted or are broken."""
        return tuple(sorted(one.name for one in self.columns if one.outcome in ("fail", "broken")))

    def to_json(self) -> dict[str, Any]:
        return {"outcome": self.outcome, "why": self.why, "rows": self.rows, "columns": [one.to_json() for one in self.columns]}


def of_window(window: Sample, reference: Sample, usual: Calibration | None, rules: Drift, *, trouble: Sequence[str] = ()) -> Verdict:
    """The verdict on *window* beside *reference* and what is *usual* for it. *trouble* says which part of the log cannot be read."""
    if trouble:
        return Verdict(outcome="broken", why="; ".join(trouble), rows=window.rows)
    if not window.rows:
        return Verdict(outcome="broken", why="no rows in the window; check that requests arrive and are logged", rows=0)
    columns = [_column(name, window, reference, usual, rules) for name in reference.columns if name not in rules.ignore]
    return _summed_up(columns, rows=window.rows, rules=rules)


def _summed_up(columns: Sequence[Column], *, rows: int, rules: Drift) -> Verdict:
    order: Mapping[Outcome, int] = {"broken": 0, "fail": 1, "inconclusive": 2, "pass": 3}
    ordered = tuple(sorted(columns, key=lambda one: (order[one.outcome], -_excess(one), one.name)))
    by_outcome = {outcome: [one for one in ordered if one.outcome == outcome] for outcome in order}
    if broken := by_outcome["broken"]:
        return Verdict(outcome="broken", why=_told(broken), rows=rows, columns=ordered)
    if rows < rules.min_rows:
        why = f"{rows} rows, but a verdict needs {rules.min_rows}; make windows longer, or lower drift.min_rows"
        return Verdict(outcome="inconclusive", why=why, rows=rows, columns=ordered)
    if failed := by_outcome["fail"]:
        return Verdict(outcome="fail", why=_told(failed), rows=rows, columns=ordered)
    if by_outcome["inconclusive"] and not by_outcome["pass"]:
        return Verdict(outcome="inconclusive", why=_told(by_outcome["inconclusive"]), rows=rows, columns=ordered)
    return Verdict(outcome="pass", why=f"{len(by_outcome['pass'])} columns as usual over {rows:,} rows", rows=rows, columns=ordered)


def _excess(column: Column) -> float:
    if column.distance is None or not column.threshold:
        return 0.0
    return column.distance / column.threshold


def _told(columns: Sequence[Column], *, most: int = 3) -> str:
    more = f" and {len(columns) - most} more columns" if len(columns) > most else ""
    return "; ".join(f"{one.name}: {one.why}" for one in columns[:most]) + more


def _column(name: str, window: Sample, reference: Sample, usual: Calibration | None, rules: Drift) -> Column:
    old, before = reference.known(name), reference.known(name).missing
    if name == references.LABEL:
        # Labels come late, or never; which ones are there is no property of what came in.
        before, window = 0.0, Sample(at=window.at, columns={name: distances.present(window.columns.get(name, old.values[:0]))})
    if name not in window.columns:
        return Column(name=name, outcome="broken", why="the column is not in the log", missing=1.0, missing_before=before)
    new = window.columns[name]
    missing, strange = distances.missing(new), distances.strange(old, new)
    found = Column(name=name, outcome="broken", why="", missing=missing, missing_before=before, strange=strange)
    hard = _hard(old, new, found, rules)
    if hard is not None:
        return dataclasses.replace(found, why=hard)
    distance = distances.between(old, new)
    if distance is not None:
        found = dataclasses.replace(found, measure=distance.measure, distance=distance.value, p_rows=distance.p)
    if distance is not None and usual is not None and name in usual.usual:
        threshold = max(rules.min_effect, usual.threshold(name, rules.alpha))
        found = dataclasses.replace(found, threshold=threshold, p=usual.p(name, distance.value))
    outcome, why = _soft(found, usual.odd.get(name, Odd()) if usual is not None else Odd(), rules)
    return dataclasses.replace(found, outcome=outcome, why=why)


def _soft(found: Column, seen: Odd, rules: Drift) -> tuple[Outcome, str]:
    """What the numbers of a column that is not broken come to."""
    if found.distance is not None and found.threshold is not None and found.distance > found.threshold:
        return "fail", _how_far(found)
    # Values that are missing come in stretches too: it takes more than there were in any.
    if found.missing >= found.missing_before + rules.missing and found.missing > seen.missing:
        return "fail", _what_is_odd(found)
    if found.strange >= rules.missing and found.strange > seen.strange:
        return "fail", _what_is_odd(found)
    if found.distance is None:
        return "inconclusive", "no value in the reference or in the window"
    if found.threshold is None:
        return "inconclusive", "the reference is too short to show what is usual for such a window"
    return "pass", "as usual"


def _hard(old: distances.Known, new: references.Values, found: Column, rules: Drift) -> str | None:
    """Why the column is broken, if it is."""
    if found.missing >= rules.broken > found.missing_before:
        return f"{100 * found.missing:.0f} % of the values are missing, compared with {100 * found.missing_before:.0f} % in the reference"
    if old.numeric != references.is_numeric(new) and not old.empty and len(distances.present(new)):
        kinds = ["numbers" if numeric else "text" for numeric in (references.is_numeric(new), old.numeric)]
        return f"it holds {kinds[0]}, but {kinds[1]} in the reference"
    if found.strange >= rules.broken:
        return f"{100 * found.strange:.0f} % of the values are {_of_what_kind(old)}; did a unit or a code change?"
    return None


def _of_what_kind(old: distances.Known) -> str:
    return "outside everything in the reference" if old.numeric else "never seen in the reference"


def _how_far(found: Column) -> str:
    unit = "standard deviations" if found.measure == "wasserstein" else "Jensen-Shannon"
    return f"{found.distance:.3g} {unit} from the reference, usual is at most {found.threshold:.3g} (p {found.p:.2g})"


def _what_is_odd(found: Column) -> str:
    return (
        f"{100 * found.missing:.1f} % of the values are missing (in the reference {100 * found.missing_before:.1f} %), "
        f"{100 * found.strange:.1f} % were never seen there"
    )

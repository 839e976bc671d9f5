"""Tables of figures: ours, the peers, and the ratio, printed for people, as Markdown and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bench.measure import Spread

SCHEMA = "lastgood.bench/v1"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure. `peers` holds the same figure of others; `below` is what we have promised, if anything.

    `ours` is None if it could not be measured; `note` then gives the reason.
    """

    what: str
    unit: str
    ours: float | None
    peers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    spread: Spread | None = None
    below: float | None = None
    note: str = ""

    @property
    def ratios(self) -> dict[str, float]:
        """Ours divided by each peer's, where both are there and the peer's is not zero."""
        return {name: self.ours / value for name, value in self.peers.items() if self.ours is not None and value}

    @property
    def kept(self) -> bool | None:
        """Whether the promise is kept; None without a promise or a figure."""
        return None if self.below is None or self.ours is None else self.ours < self.below

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "unit": self.unit,
            "ours": self.ours,
            "spread": dataclasses.asdict(self.spread) if self.spread else None,
            "peers": dict(self.peers),
            "ratios": self.ratios,
            "below": self.below,
            "kept": self.kept,
            "note": self.note,
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of one measurement. `ours` heads our column; `notes` describe the method; without `ratios` the peers are shown alone."""

    title: str
    rows: Sequence[Row]
    ours: str = "lastgood"
    notes: Sequence[str] = ()
    ratios: bool = True

    @property
    def peers(self) -> tuple[str, ...]:
        """Every peer that a row names, in the order of their first appearance."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.peers))

    def to_json(self) -> dict[str, Any]:
        rows = [row.to_json() for row in self.rows]
        return {"title": self.title, "ours": self.ours, "peers": list(self.peers), "rows": rows, "notes": list(self.notes)}


def text(table: Table) -> str:
    """The table for a terminal: columns as wide as their widest cell, numbers to the right."""
    head, cells = _cells(table)
    widths = [max(len(line[column]) for line in (head, *cells)) for column in range(len(head))]
    lines = ["  ".join(_pad(cell, width, column) for column, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
             for line in (head, *cells)]  # fmt: skip
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([table.title, "", lines[0], rule, *lines[1:], *([""] if table.notes else []), *(f"  {note}" for note in table.notes)])


def markdown(table: Table) -> str:
    """The table for RESULTS.md."""
    head, cells = _cells(table)
    marks = ["---" if column in _LEFT else "---:" for column in range(len(head))]
    lines = [f"| {' | '.join(_escaped(line))} |" for line in (head, marks, *cells)]
    return "\n".join([f"### {table.title}", "", *lines, *([""] if table.notes else []), *(f"- {note}" for note in table.notes)])


def number(value: float | None) -> str:
    """A figure with three significant digits, whole numbers whole, thousands set apart."""
    if value is None:
        return "-"
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.1e}"


_LEFT = (0, 1)


def _cells(table: Table) -> tuple[list[str], list[list[str]]]:
    peers = table.peers
    with_spread = any(row.spread for row in table.rows)
    with_limit = any(row.below is not None for row in table.rows)
    with_note = any(row.note for row in table.rows)
    head = ["figure", "unit", table.ours, *(["p95", "p99", "max", "n"] if with_spread else [])]
    head += [column for name in peers for column in ((name, "ratio") if table.ratios else (name,))]
    head += [*(["promised"] if with_limit else []), *(["note"] if with_note else [])]
    return head, [_line(row, peers=peers, columns=(with_spread, table.ratios, with_limit, with_note)) for row in table.rows]


def _line(row: Row, *, peers: Sequence[str], columns: tuple[bool, bool, bool, bool]) -> list[str]:
    with_spread, with_ratios, with_limit, with_note = columns
    cells = [row.what, row.unit, number(row.ours)]
    if with_spread:
        cells += [number(value) for value in (row.spread.p95, row.spread.p99, row.spread.high, row.spread.n)] if row.spread else [""] * 4
    for name in peers:
        cells.append(number(row.peers[name]) if name in row.peers else "")
        if with_ratios:
            cells.append(number(row.ratios[name]) if name in row.ratios else "")
    if with_limit:
        verdict = {None: "", True: " kept", False: " MISSED"}[row.kept]
        cells.append(f"< {number(row.below)}{verdict}" if row.below is not None else "")
    return [*cells, row.note] if with_note else cells


def _pad(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column in _LEFT else cell.rjust(width)


def _escaped(line: Sequence[str]) -> list[str]:
    return [cell.replace("|", "\\|") for cell in line]

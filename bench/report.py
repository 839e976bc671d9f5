"""The result of one measurement, and how it is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from bench import machine, table


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The tables of one measurement, the machine just before it began, and how many seconds it took."""

    name: str
    quick: bool
    machine: dict[str, Any]
    tables: Sequence[table.Table]
    took_s: float

    def to_json(self) -> dict[str, Any]:
        """The stable form that `--json` prints."""
        return {
            "schema": table.SCHEMA,
            "name": self.name,
            "quick": self.quick,
            "took_s": round(self.took_s, 1),
            "machine": self.machine,
            "tables": [one.to_json() for one in self.tables],
        }

    def text(self) -> str:
        head = f"== {self.name}{' (quick: few repetitions, figures are rough)' if self.quick else ''}, {self.took_s:.0f} s"
        return "\n\n".join([head, "\n".join(machine.lines(self.machine)), *(table.text(one) for one in self.tables)])


def results(reports: Sequence[Report]) -> str:
    """The whole of RESULTS.md."""
    first = reports[0]
    parts = [
        "# Results",
        "Written by `.venv/bin/python -m bench all`; each table comes from one run, ours and the peers taking turns. "
        "`ratio` is ours divided by theirs." + (" **From a `--quick` run: few repetitions, rough figures.**" if first.quick else ""),
        "\n".join(f"- {line}" for line in machine.lines(first.machine)),
    ]
    for one in reports:
        load = " ".join(f"{value:.2f}" for value in one.machine["load_average"])
        parts.append(f"## {one.name}\n\nTook {one.took_s:.0f} s; load average before it: {load}.")
        parts += [table.markdown(found) for found in one.tables]
    return "\n\n".join(parts) + "\n"

"""The cost of starting the command, compared with the bare interpreter."""

from __future__ import annotations

import sys

from bench import measure
from bench.running import LASTGOOD, Stack
from bench.table import Row, Table

BARE = "python -c pass"


def table(stack: Stack, *, count: int) -> Table:
    """Wall and processor time of both, in turn."""
    ours, bare = [], []
    for _ in range(count):
        ours.append(stack.lastgood("--version"))
        bare.append(measure.run([sys.executable, "-c", "pass"], env=stack.environment, cwd=stack.settings.project, log=stack.log))
    rows = [
        _row("wall time", [one.wall_s * 1000 for one in ours], [one.wall_s * 1000 for one in bare]),
        _row("processor time", [one.cpu_s * 1000 for one in ours], [one.cpu_s * 1000 for one in bare]),
    ]
    return Table(title="Start-up", rows=rows, ours="lastgood --version (p50)", notes=(f"The command is {LASTGOOD.name} as installed.",))


def _row(what: str, ours: list[float], bare: list[float]) -> Row:
    found = measure.spread(ours)
    return Row(what=what, unit="ms", ours=found.p50, peers={BARE: measure.median(bare)}, spread=found)

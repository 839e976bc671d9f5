"""Snapshots of a vector index: the cost of a new one, how fast a return is, what is stored; compared with today's practice."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import (
    index_build,
    index_flips,
    index_lance,
    index_postgres,
    index_qdrant,
    index_quality,
    index_rows,
    index_ways,
    postgres,
    processes,
)
from bench.index_ways import Figures, Way
from bench.table import Row, Table
from lastgood.system import files


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Numbers of rows and dimensions; `postgres` and `qdrant` determine whether those take part (minutes above 100,000 rows)."""

    rows: int
    dim: int
    questions: int
    postgres: bool = True
    qdrant: bool = False

    @property
    def words(self) -> str:
        return f"{self.rows:,} x {self.dim}"


QUICK = (Size(rows=2_000, dim=64, questions=50, qdrant=True),)
FULL = (
    Size(rows=10_000, dim=256, questions=300, qdrant=True),
    Size(rows=100_000, dim=384, questions=300),
    Size(rows=1_000_000, dim=256, questions=200, postgres=False),
)


def run(*, quick: bool) -> list[Table]:
    """Every table."""
    importlib.import_module("lancedb")  # seconds, that no figure is to hold
    tables = []
    with processes.scratch() as folder, postgres.serving(folder / "postgres") as url:
        for size in QUICK if quick else FULL:
            data = index_rows.make(size.rows, size.dim, questions=size.questions)
            tables.append(index_build.table(data, folder / f"build-{size.rows}", words=size.words))
            tables.append(_beside("LanceDB", _lance(size), data, folder / f"lance-{size.rows}", words=size.words))
            if size.postgres:
                tables.append(_beside("pgvector", _postgres(url), data, folder / f"pgvector-{size.rows}", words=size.words))
        tables += [index_build.incremental(quick=quick), index_quality.table(quick=quick)]
        (folder / "flips").mkdir()
        tables.append(index_flips.measured(folder / "flips", count=10 if quick else 200, control=0 if quick else 200))
    return tables


Make = Callable[[index_rows.Data, Path], Way]


def _lance(size: Size) -> list[Make]:
    with_qdrant = size.qdrant and importlib.util.find_spec("qdrant_client") is not None
    return [
        index_lance.Snapshots,
        index_lance.Reopened,
        index_lance.InPlace,
        index_lance.Copied,
        *([index_qdrant.Alias] if with_qdrant else []),
    ]


def _postgres(url: str) -> list[Make]:
    return [functools.partial(way, url=url) for way in (index_postgres.Snapshots, index_postgres.View)]


def _beside(engine: str, ways: Sequence[Make], data: index_rows.Data, folder: Path, *, words: str) -> Table:
    found = []
    for number, make in enumerate(ways):
        place = folder / str(number)
        place.mkdir(parents=True)
        way = make(data, place)
        try:
            found.append(index_ways.figures(way))
        finally:
            way.close()
            files.discard(place)
    notes = [f"{one.name}: {one.how}." for one in found]
    rows = [
        _row("back to A: decided -> its first right answer, p50", "ms", found, lambda one: one.back_ms.p50, below=10),
        _row("  worst", "ms", found, lambda one: one.back_ms.high),
        _row("  written to disk by it", "MB", found, lambda one: one.moved / 1e6, below=0.001),
        _row("forth to B, which is ready where it can be", "ms", found, lambda one: one.forth_ms.p50),
        _row("B, a tenth rewritten: its rows -> its first answer", "s", found, lambda one: one.new_s),
        _row("stored for A and B", "MB", found, lambda one: one.stored / 1e6),
        _row("query, p50", "ms", found, lambda one: one.ask_ms.p50),
        _row("query, p99", "ms", found, lambda one: one.ask_ms.p99),
        _row("recall@10 against looking at every vector", "share", found, lambda one: one.recall),
    ]
    return Table(title=f"{engine}: two versions of {words}", ours=found[0].name, rows=rows, notes=notes)


def _row(what: str, unit: str, found: Sequence[Figures], read: Callable[[Figures], float], *, below: float | None = None) -> Row:
    ours, *peers = found
    return Row(what=what, unit=unit, ours=read(ours), peers={one.name: read(one) for one in peers}, below=below)

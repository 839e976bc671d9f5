"""Past flights as requests: what a client would have sent before each departure, and how it turned out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import features


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """One labelled flight. `body` is the JSON request for /predict, `at` its scheduled departure in Unix seconds."""

    at: float
    body: bytes
    late: bool
    arr_delay_min: float


def flights(prepared: Path, months: Sequence[int], *, every: int = 1) -> Iterator[Flight]:
    """The labelled flights of *months* in order of time; with *every* = n only each n-th of them."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from services.flights import tables

    for month in sorted(months):
        table = pq.read_table(tables.month_file(prepared, month))
        table = table.filter(pc.is_valid(table["late"]))
        for batch in table.take(list(range(0, table.num_rows, every))).to_batches(max_chunksize=1000):
            yield from (flight(row) for row in batch.to_pylist())


def flight(row: dict[str, Any]) -> Flight:
    """The flight of one *row* of a prepared table."""
    body = {name: row[name] for name in features.FIELDS}
    body["scheduled_departure"] = row["scheduled_departure"].isoformat()
    return Flight(
        at=row["scheduled_departure"].timestamp(),
        body=json.dumps(body, separators=(",", ":")).encode(),
        late=row["late"],
        arr_delay_min=row["arr_delay"],
    )

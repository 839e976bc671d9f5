"""What a row of flight data is, and how it is written so that equal rows give equal bytes.

Used by the data pipeline only (a dependency of both stages in dvc.yaml); it imports nothing of lastgood,
so the pipeline's declared dependencies are complete.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

KEY = ("scheduled_departure", "carrier", "flight", "origin", "dest")
"""Names a flight, and the order of rows: time first, so a replay reads straight through."""

LABELS = ("arr_delay", "late")
LATE_MIN = 15.0
"""A flight is late if it arrives this many minutes after its schedule, or more."""

SCHEMA = pa.schema(
    [
        pa.field("time_hour", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("scheduled_departure", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("flight", pa.int32(), nullable=False),
        pa.field("tailnum", pa.string()),
        pa.field("carrier", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("dest", pa.string(), nullable=False),
        pa.field("distance", pa.float64(), nullable=False),
        pa.field("plane_year", pa.int32()),
        pa.field("seats", pa.int32()),
        pa.field("temp", pa.float64()),
        pa.field("humid", pa.float64()),
        pa.field("wind_speed", pa.float64()),
        pa.field("precip", pa.float64()),
        pa.field("pressure", pa.float64()),
        pa.field("visib", pa.float64()),
        pa.field("arr_delay", pa.float64()),
        pa.field("late", pa.bool_()),
    ]
)
"""`time_hour` is the scheduled hour, `scheduled_departure` the minute, both UTC. Miles, Fahrenheit, mph, inches,
millibars as the source has them. The labels are null for flights that never arrived."""


def write(table: pa.Table, file: Path) -> None:
    """Write *table* as Parquet; the same rows give the same bytes under the same pyarrow."""
    file.parent.mkdir(parents=True, exist_ok=True)
    plain = table.select(SCHEMA.names).cast(SCHEMA).replace_schema_metadata(None)
    pq.write_table(plain, file, compression="zstd", version="2.6", row_group_size=1_000_000)


def month_file(folder: Path, month: int) -> Path:
    """Where the month (1 to 12) of 2013 lies below *folder*."""
    return folder / f"2013-{month:02d}.parquet"

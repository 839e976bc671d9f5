"""Second stage of the data pipeline: which months are trained on and which, later ones, are evaluated on.

Also writes `reference.json`, the profile of the training data against which drift is looked for.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from services.flights import tables

BINS = 32
"""Quantile bins of a numeric column in the profile."""

_NO_PROFILE = ("time_hour", "scheduled_departure", "flight", "tailnum", *tables.LABELS)


def split(*, prepared: Path, train: Sequence[int], evaluate: Sequence[int], out: Path) -> None:
    """Write train.parquet, evaluate.parquet (labelled flights only) and reference.json below *out*."""
    check_windows(train, evaluate)
    training = _labelled(prepared, train)
    tables.write(training, out / "train.parquet")
    tables.write(_labelled(prepared, evaluate), out / "evaluate.parquet")
    profile = {"months": sorted(train), **reference(training)}
    (out / "reference.json").write_text(json.dumps(profile, indent=1, sort_keys=True) + "\n", "utf-8")


def check_windows(train: Sequence[Any], evaluate: Sequence[Any]) -> None:
    """Raise SystemExit unless both windows name months of 2013 and evaluation lies strictly after training."""
    for name, months in (("train", train), ("evaluate", evaluate)):
        if not months or any(isinstance(m, bool) or not isinstance(m, int) or not 1 <= m <= 12 for m in months):
            raise SystemExit(f"split.{name} is {list(months)!r}; give at least one month as a number from 1 to 12")
    if max(train) >= min(evaluate):
        raise SystemExit(f"training months {sorted(train)} reach into evaluation months {sorted(evaluate)}; evaluate on later months only")


def reference(training: pa.Table) -> dict[str, Any]:
    """The profile: per column its nulls and either quantile edges with counts (numeric) or counts by value."""
    names = [name for name in training.column_names if name not in _NO_PROFILE]
    late = float(np.mean(training["late"].to_numpy(zero_copy_only=False)))
    return {"rows": training.num_rows, "late_rate": late, "columns": {name: _profile(training[name]) for name in names}}


def _profile(column: pa.ChunkedArray) -> dict[str, Any]:
    present = column.drop_null()
    if pa.types.is_string(column.type):
        counts = sorted((item["values"], item["counts"]) for item in pc.value_counts(present).to_pylist())
        return {"kind": "categorical", "nulls": column.null_count, "counts": dict(counts)}
    values = present.to_numpy().astype(float)
    if values.size == 0:
        return {"kind": "numeric", "nulls": column.null_count, "edges": [], "counts": []}
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)))
    counted, _ = np.histogram(values, bins=edges) if edges.size > 1 else (np.array([values.size]), None)
    return {"kind": "numeric", "nulls": column.null_count, "edges": edges.tolist(), "counts": counted.tolist()}


def _labelled(prepared: Path, months: Sequence[int]) -> pa.Table:
    whole = pa.concat_tables(pq.read_table(tables.month_file(prepared, month)) for month in sorted(set(months)))
    return whole.filter(pc.is_valid(whole["late"]))


def main() -> None:
    """`python -m services.flights.split --params params.yaml --prepared data/prepared --out data/split`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    call = parser.parse_args()
    split(prepared=call.prepared, out=call.out, **yaml.safe_load(call.params.read_text("utf-8"))["split"])


if __name__ == "__main__":
    main()

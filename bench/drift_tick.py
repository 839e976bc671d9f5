"""One tick in a process of its own: `python -m bench.drift_tick DAYS` prints its peak memory in MB and its CPU milliseconds."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import scipy.stats

from bench import drift_samples
from lastgood.drift import verdict
from lastgood.drift_rules import DAY_S, Drift
from lastgood.serving import inference_log, segments
from lastgood.sources import windows

BUNDLE = "sha256:" + "1" * 64
ROWS = 30_000
RULES = Drift()


def fill(folder: Path, days: int) -> None:
    """A log of so many days, one segment each."""
    for day in range(days):
        rows = drift_samples.sample(ROWS, seed=day)
        moments = np.round((day * DAY_S + np.linspace(0, DAY_S, ROWS, endpoint=False)) * 1e6).astype(np.int64)
        at = pa.array(moments).cast(pa.timestamp("us", tz="UTC"))
        columns = {f"{inference_log.FEATURE}{name}": pa.array(values) for name, values in rows.columns.items()}
        plain = {
            "at": at,
            "request_id": [f"{day}-{n}" for n in range(ROWS)],
            "row": pa.array([0] * ROWS, pa.int32()),
            "bundle": [BUNDLE] * ROWS,
        }
        table = pa.table({**plain, "shadow": [False] * ROWS, "arm": ["stable"] * ROWS, "probability": pa.array([0.5] * ROWS), **columns})
        name = segments.segment_name("bench", day + 1, day + 1)
        segments.write_segment(table, folder / inference_log.PREDICTIONS / segments.day_name(day * DAY_S), name=name)
        os.utime(folder / inference_log.PREDICTIONS / segments.day_name(day * DAY_S) / name, ((day + 1) * DAY_S,) * 2)


def main() -> None:
    """Fill the log in a child, so that its memory does not count, then look at the last day."""
    days = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if not (child := os.fork()):
            fill(folder, days)
            os._exit(0)
        os.waitpid(child, 0)
        reference = drift_samples.sample(20_000, seed=99)
        scipy.stats.ks_2samp([0.0, 1.0], [0.0, 1.0])
        began = sum(os.times()[:2])
        window = windows.read(
            folder, bundle=BUNDLE, since=(days - 1) * DAY_S, until=days * DAY_S, columns=reference.columns, most=reference.rows // 10
        )
        said = verdict.of_window(window.sample, reference, None, RULES)
        used = (sum(os.times()[:2]) - began) * 1000
    assert window.rows == ROWS
    assert said.outcome == "inconclusive"  # nothing is calibrated here
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:.0f} {used:.0f}")


if __name__ == "__main__":
    main()

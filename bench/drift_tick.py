"""One tick in a process of its own: `python -m bench.drift_tick DAYS ROWS` prints its peak memory in MB and its CPU milliseconds."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench import drift_samples
from lastgood.drift import judging, verdict
from lastgood.drift import window as drift_window
from lastgood.drift.reference import Sample
from lastgood.service.drift import DAY_S, Drift
from lastgood.serving import inference_log, segments

BUNDLE = "sha256:" + "1" * 64
RULES = Drift()


def fill(folder: Path, days: int, rows_a_day: int) -> None:
    """A log of this many days, one segment each."""
    for day in range(days):
        rows = drift_samples.sample(rows_a_day, seed=day)
        moments = np.round((day * DAY_S + np.linspace(0, DAY_S, rows_a_day, endpoint=False)) * 1e6).astype(np.int64)
        at = pa.array(moments).cast(pa.timestamp("us", tz="UTC"))
        columns = {f"{inference_log.FEATURE}{name}": pa.array(values) for name, values in rows.columns.items()}
        plain = {
            "at": at,
            "request_id": [f"{day}-{n}" for n in range(rows_a_day)],
            "row": pa.array([0] * rows_a_day, pa.int32()),
            "bundle": [BUNDLE] * rows_a_day,
        }
        table = pa.table(
            {
                **plain,
                "shadow": [False] * rows_a_day,
                "arm": ["stable"] * rows_a_day,
                "probability": pa.array([0.5] * rows_a_day),
                **columns,
            }
        )
        name = segments.segment_name("bench", day + 1, day + 1)
        segments.write_segment(table, folder / inference_log.PREDICTIONS / segments.day_name(day * DAY_S), name=name)
        os.utime(folder / inference_log.PREDICTIONS / segments.day_name(day * DAY_S) / name, ((day + 1) * DAY_S,) * 2)


def peak_mb() -> float:
    """The peak memory of this program, in MB: the figure of `getrusage` includes the process that started it."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Fill the log in a child, so that its memory does not count, then evaluate the last day."""
    days, rows_a_day = map(int, sys.argv[1:])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if not (child := os.fork()):
            fill(folder, days, rows_a_day)
            os._exit(0)
        os.waitpid(child, 0)
        reference = drift_samples.sample(20_000, seed=99)
        _look(folder, reference, days)  # what is imported on the way is imported once
        began = sum(os.times()[:2])
        window, said = _look(folder, reference, days)
        used = (sum(os.times()[:2]) - began) * 1000
    assert window.rows == rows_a_day
    assert said.outcome == "inconclusive"  # nothing is calibrated here
    print(f"{peak_mb():.0f} {used:.0f}")


def _look(folder: Path, reference: Sample, days: int) -> tuple[drift_window.Window, verdict.WindowVerdict]:
    since = (days - 1) * DAY_S
    most = reference.rows // judging.PARTS
    window = drift_window.read(folder, bundle=BUNDLE, since=since, until=days * DAY_S, columns=reference.columns, most=most)
    return window, verdict.of_window(window.sample, reference, None, RULES)


if __name__ == "__main__":
    main()

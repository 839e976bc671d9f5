"""Samples, quantiles, and how much processor time a process has used."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Summary of a list of numbers, in their unit."""

    n: int
    p50: float
    p95: float
    p99: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """The quantiles of *values*, by nearest rank. Raises ValueError if there are none."""
    if not values:
        raise ValueError("nothing was measured, so there is nothing to sum up")
    ordered = sorted(values)
    return Spread(
        n=len(ordered),
        p50=quantile(ordered, 0.50),
        p95=quantile(ordered, 0.95),
        p99=quantile(ordered, 0.99),
        low=ordered[0],
        high=ordered[-1],
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that *share* of the *ordered* numbers do not exceed (nearest rank, so always one of them)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle of *values*, by nearest rank."""
    return quantile(sorted(values), 0.5)


def interval(*groups: Sequence[float], samples: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of the means of *groups*, each drawn from with replacement; the same for the same numbers."""
    import numpy as np

    draw = np.random.default_rng(1)
    means = [draw.choice(np.asarray(values), size=(samples, len(values))).mean(axis=1) for values in groups]
    low, high = np.quantile(np.mean(means, axis=0), (0.025, 0.975))
    return float(low), float(high)


def timed_ms(call: Callable[[], object]) -> float:
    """Milliseconds that *call* takes."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def cpu_s(pid: int) -> float:
    """Processor seconds that process *pid* has used so far, all its threads, in user and system mode (Linux; 10 ms steps)."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a command ended. `began` and `ended` are Unix seconds; `cpu_s` counts it and what it waited for."""

    began: float
    ended: float
    cpu_s: float
    code: int
    out: str

    @property
    def wall_s(self) -> float:
        return self.ended - self.began


def run(argv: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path, log: Path) -> Ran:
    """Run a command to its end as a process of its own; its stderr goes to *log*. Does not judge its exit code.

    Its output is read from a file: a pipe would stay open as long as any process that it leaves behind.
    """
    with log.open("ab") as talk, tempfile.TemporaryFile() as printed:
        began = time.time()
        process: Any = subprocess.Popen(
            [str(arg) for arg in argv], env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=printed, stderr=talk
        )
        # wait4 tells what this one child has used, which getrusage cannot once there are several.
        _, status, usage = os.wait4(process.pid, 0)
        ended = time.time()
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        out = printed.read().decode("utf-8", "replace")
    return Ran(began=began, ended=ended, cpu_s=usage.ru_utime + usage.ru_stime, code=process.returncode, out=out)

"""Bounds on time that hold on a busy machine too, and processes that stand still."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

TRIES = 8
BUSY = 25.0
"""A bound is multiplied by this at last: what hangs or waits for something else is longer still."""
FROZEN_S = 30.0


def soon(call: Callable[[], T], *, within_s: float) -> T:
    """What *call* gives. Fails if it never takes less than *within_s* seconds.

    Other work on the machine delays some calls, a wait that should not be there delays all: the quickest of a few counts. The
    test must be able to repeat the call.
    """
    took = []
    for _ in range(TRIES):
        began = time.monotonic()
        given = call()
        took.append(time.monotonic() - began)
        if took[-1] < within_s:
            return given
        assert took[-1] < within_s * BUSY, f"took {took[-1]:.1f} s, and {within_s:g} s are allowed"
    raise AssertionError(f"never within {within_s:g} s: {', '.join(f'{seconds:.2f}' for seconds in took)}")


def freeze(pid: int) -> None:
    """Stop a process by SIGSTOP and return once all of its threads stand still: the signal itself only asks for it."""
    os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + FROZEN_S
    while not all(_stands(task) for task in Path(f"/proc/{pid}/task").glob("*/stat")):
        assert time.monotonic() < end, f"{pid} does not stop"
        time.sleep(0.01)


def _stands(stat: Path) -> bool:
    try:
        return stat.read_text("utf-8", "replace").rpartition(")")[2].split()[0] in "TtZX"
    except OSError:
        return True  # the thread is gone

"""The cause of a failed prediction: a row that the team's code cannot compute, or a bundle that cannot compute.

If one row fails again and again while the runtime's own warm-up rows are answered, the sender is at fault; in any other case
the bundle is. That includes memory: it has run out if the warm-up rows fail because of it, but not if a row needs more
than is available. Rows are retried as copies (`in_shadow`), so that nothing is written twice; the warm-up rows at a
bounded rate, so that no client can keep a worker busy with them.

What does not belong here: HTTP (`app`).
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

PredictRows = Callable[[Sequence[Any]], object]
"""Answers rows, or raises."""

PAUSE_S = 2.0
"""Minimum seconds for which the result of the warm-up rows is reused."""
SHARE = 0.05
"""Share of a worker's time that retrying the warm-up rows may take."""
AGAIN = 2
"""How many more times a row must fail on its own."""


class Failed(Exception):
    """A team's code failed; the cause is its exception. Whatever that was, this one can be passed between threads."""


def contained(answer: Callable[[], T]) -> T:
    """The result of *answer*. Raises MemoryError, or Failed for anything else that it raised, even what would end a process or a loop."""
    try:
        return answer()
    except (MemoryError, Failed):
        raise
    except BaseException as error:
        raise Failed(f"{type(error).__name__} in the service's code") from error


def check(outputs: Any, *, rows: int) -> list[dict[str, Any]]:
    """*outputs*, if they are one answer for each of *rows* that JSON and the log can hold. Raises Failed."""
    if not isinstance(outputs, Sequence) or len(outputs) != rows:
        count = len(outputs) if isinstance(outputs, Sequence) else "no list of"
        raise Failed(f"the runtime returned {count} answers for {rows} rows; correct its predict")
    if any(not isinstance(output, Mapping) for output in outputs):
        raise Failed("the runtime returned an answer that is not a dict; correct its predict")
    contained(lambda: json.dumps(outputs, allow_nan=False))
    contained(lambda: _check_probabilities(outputs))
    return list(outputs)


def _check_probabilities(outputs: Sequence[Mapping[str, Any]]) -> None:
    for output in outputs:
        value = output.get("probability")
        if isinstance(value, int | float) and not math.isfinite(value):
            raise Failed("the runtime returned a probability that is not a finite number; correct its predict")


class Wellness:
    """Whether the bundle answers its warm-up rows now; *ask* requests them and raises. Re-checked at a bounded rate. Thread-safe."""

    def __init__(self, ask: Callable[[], object], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._guard = threading.Lock()
        self._well = False
        self._out_of_memory = False
        self._until = -math.inf

    @property
    def out_of_memory(self) -> bool:
        """Whether the warm-up rows last failed because memory ran out."""
        return self._out_of_memory

    def well(self) -> bool:
        """Whether they are answered; checks again if the last result is too old."""
        with self._guard:
            began = self._clock()
            if began >= self._until:
                self._well = self._out_of_memory = False
                try:
                    contained(self._ask)
                except MemoryError:
                    self._out_of_memory = True
                except Failed:
                    pass
                else:
                    self._well = True
                ended = self._clock()
                self._until = ended + max(PAUSE_S, (ended - began) / SHARE)
            return self._well


def describe_error(error: Failed | MemoryError) -> str:
    """What happened, for the sender of the row."""
    return "it needs more memory than is available" if isinstance(error, MemoryError) else str(error)


def find(rows: Sequence[Any], answer: PredictRows, *, until: float, clock: Callable[[], float] = time.monotonic) -> int | None:
    """The number of a row in *rows*, which failed together, that cannot be computed; None if there is none, or none was found by *until*.

    Costs about as much as all rows once more, because a failing row is found by bisection.
    """

    def fails(some: Sequence[Any]) -> bool:
        try:
            check(contained(lambda: answer(some)), rows=len(some))
        except (MemoryError, Failed):
            return True
        return False

    low, high = 0, len(rows)
    while high - low > 1:
        if clock() >= until:
            return None
        middle = (low + high) // 2
        if fails(rows[low:middle]):
            high = middle
        else:
            low = middle
    again = all(clock() < until and fails(rows[low:high]) for _ in range(AGAIN))
    return low if again else None

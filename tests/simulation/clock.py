"""Time that passes only when a world says so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from lastgood.controller import analysis_loop, loop
from lastgood.system import clock as system_clock

BEGIN = 1_800_000_000.0


class Clock:
    """`true` is how much time has passed, in seconds; calling it gives the Unix time that lastgood goes by.

    `offset` may jump without anybody knowing, as over a start of the machine. `sets` are times at which somebody sets the machine's
    clock wrong, and right again: (from, until, by how many seconds), the first two in seconds of `true`.
    """

    def __init__(self) -> None:
        self.true = 0.0
        self.offset = BEGIN
        self.sets: Sequence[tuple[float, float, float]] = ()
        self.kept = system_clock.Clock(reading=self._machine, counting=lambda: self.true + self.offset, boot="")

    def __call__(self) -> float:
        return self.kept.now()

    def _machine(self) -> float:
        """What the machine shows."""
        return self.true + self.offset + sum(by for begin, end, by in self.sets if begin <= self.true < end)


@contextlib.contextmanager
def running(clock: Clock) -> Iterator[None]:
    """Makes the gatekeeper and the controller, which are run as they are, live by *clock*."""
    modules: tuple[Any, ...] = (analysis_loop, loop)
    before = [(module.time, module.clock) for module in modules]
    for module in modules:
        module.time = SimpleNamespace(time=clock, monotonic=lambda: clock.true)
        module.clock = SimpleNamespace(now=clock, skew_s=clock.kept.skew_s)
    try:
        yield
    finally:
        for module, (time, system) in zip(modules, before, strict=True):
            module.time, module.clock = time, system

"""Time that passes only when a world says so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from lastgood import gatekeeper, proceed

BEGIN = 1_800_000_000.0


class Clock:
    """`true` is how much time has passed, in seconds; calling it gives Unix time as a host shows it, which may jump."""

    def __init__(self) -> None:
        self.true = 0.0
        self.offset = BEGIN

    def __call__(self) -> float:
        return self.true + self.offset


class _On:
    """A module whose functions take a clock, with that clock put in."""

    def __init__(self, module: Any, clock: Clock) -> None:
        self._module, self._clock = module, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def advance(self, *args: Any, **asked: Any) -> Any:
        return self._module.advance(*args, **asked, clock=self._clock)

    def verify(self, *args: Any, **asked: Any) -> Any:
        return self._module.verify(*args, **asked, clock=self._clock)


@contextlib.contextmanager
def running(clock: Clock) -> Iterator[None]:
    """Makes the gatekeeper, which is run as it is, live by *clock*."""
    before = gatekeeper.time, gatekeeper.proceed
    gatekeeper.time = SimpleNamespace(time=clock, monotonic=lambda: clock.true)  # type: ignore[assignment]
    gatekeeper.proceed = _On(proceed, clock)  # type: ignore[assignment]
    try:
        yield
    finally:
        gatekeeper.time, gatekeeper.proceed = before

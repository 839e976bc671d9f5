"""One process's connection to the ledger, and everything that can happen to it between two calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lastgood import errors


class Killed(BaseException):
    """The process ended here, as by kill -9: nothing of it goes on, and no `except` of it sees this."""


class Line:
    """Passes every call on to *book*.

    While *down* says so, the ledger is unavailable. `fuse` counts down with every call; when it burns out the process is
    killed, before the call if the fuse was even, after it if it was odd. While `behind` is above 0, `state` tells the revision
    before the newest. `interrupt` is run before each call with the call's name, so that somebody else can be faster.
    """

    def __init__(self, book: Any, *, down: Callable[[], bool], interrupt: Callable[[str], None] = lambda name: None) -> None:
        self._book = book
        self._down = down
        self._interrupt = interrupt
        self.fuse: int | None = None
        self.behind = 0
        self.leads: bool | None = None
        """What the last try for the lease came to."""

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._book, name)

        def call(*args: Any, **asked: Any) -> Any:
            if self._down():
                raise errors.Unavailable("the ledger is locked by another process for longer than 5 s; try again")
            self._interrupt(name)
            last = self._burn()
            if last == 0:
                raise Killed
            answer = self._stale(*args, **asked) if name == "state" and self.behind else method(*args, **asked)
            if last == 1:
                raise Killed
            if name == "take_lease":
                self.leads = answer is not None
            return answer

        return call

    def _burn(self) -> int | None:
        """0 to end before this call, 1 to end after it."""
        if self.fuse is None:
            return None
        self.fuse -= 2
        return self.fuse + 2 if self.fuse < 0 else None

    def _stale(self, service: str, **asked: Any) -> Any:
        self.behind -= 1
        newest = self._book.newest(service)
        return self._book.revision(service, newest - 1).state if newest > 1 else self._book.state(service, **asked)

"""Named places between two side effects where a test can kill the process, raise an I/O error or wait.

A crash test is most valuable exactly between "written" and "visible", where a random kill rarely hits. Each
such place in the code calls `failpoint("area.place")`; the environment says what happens there:

    LASTGOOD_FAILPOINTS="ledger.before_commit=kill@2,store.before_rename=raise:28,traffic.after_cds=delay:1.5"

    kill          SIGKILL to this process: nothing is flushed, no handler runs
    raise:ERRNO   OSError with that number or name (28 or ENOSPC)
    delay:SECONDS wait, so that something else can happen meanwhile
    …@N           only at the N-th time the place is reached (counted from 1); …@N+ from the N-th on;
                  without it, every time

What does not belong here: faults outside this process (killed servers, cut networks, flipped bytes).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import signal
import threading
import time
from collections.abc import Iterator

from lastgood import errors

VARIABLE = "LASTGOOD_FAILPOINTS"

FAILPOINTS = (
    "ledger.after_begin",
    "ledger.after_revision_insert",
    "ledger.after_marks",
    "ledger.before_commit",
    "ledger.after_commit",
    "audit.before_checkpoint",
    "audit.after_checkpoint_write",
    "store.before_rename",
    "store.after_rename",
    "release.before_append",
    "release.after_append",
    "release.after_traffic",
    "release.before_cutover",
    "traffic.before_cds",
    "traffic.after_cds",
    "traffic.before_rds",
    "traffic.after_rds",
    "transfer.before_register",
    "index.before_check",
    "index.before_rename",
    "index.after_rename",
    "index.before_retire",
    "drift.before_record",
    "drift.after_record",
    "drift.after_page",
    "drift.before_rollback",
    "drift.after_rollback",
)

_RULE = re.compile(r"(?P<name>[a-z_.]+)=(?P<action>kill|raise|delay)(:(?P<argument>[A-Za-z0-9.]+))?(@(?P<first>[1-9][0-9]*)(?P<on>\+)?)?")
_lock = threading.Lock()


@dataclasses.dataclass(slots=True, kw_only=True)
class _Rule:
    name: str
    action: str
    argument: float
    first: int
    last: float
    hits: int = 0

    def fire(self) -> None:
        with _lock:
            self.hits += 1
            due = self.first <= self.hits <= self.last
        if due and self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif due and self.action == "delay":
            time.sleep(self.argument)
        elif due:
            number = int(self.argument)
            raise OSError(number, f"{os.strerror(number)} (failpoint {self.name})")


_UNARMED: dict[str, _Rule | None] = dict.fromkeys(FAILPOINTS)
_rules: dict[str, _Rule | None] = {}  # every legal name once the environment has been read, until then empty


def failpoint(name: str) -> None:
    """Perform what is armed at *name*; if nothing is, one dict lookup. Raises UsageError for a name not in FAILPOINTS."""
    try:
        rule = (_rules or _from_environment())[name]
    except KeyError:
        raise errors.UsageError(f"unknown failpoint {name!r}; add it to lastgood.system.failpoints.FAILPOINTS") from None
    if rule is not None:
        rule.fire()


@contextlib.contextmanager
def armed(text: str) -> Iterator[None]:
    """Arm this process with *text* (same syntax as the variable) while the block runs, then restore."""
    before = dict(_rules)
    _rules.update(_parse(text))
    try:
        yield
    finally:
        _rules.clear()
        _rules.update(before)


def _from_environment() -> dict[str, _Rule | None]:
    if not _rules:
        _rules.update(_parse(os.environ.get(VARIABLE, "")))
    return _rules


def _parse(text: str) -> dict[str, _Rule | None]:
    rules = dict(_UNARMED)
    for item in filter(None, (piece.strip() for piece in text.split(","))):
        rule = _parse_rule(item)
        if rule.name not in rules:
            raise errors.UsageError(f"{VARIABLE} names unknown failpoint {rule.name!r}; it has {', '.join(FAILPOINTS)}")
        if rules[rule.name] is not None:
            raise errors.UsageError(f"{VARIABLE} names {rule.name!r} twice; give each failpoint one rule")
        rules[rule.name] = rule
    return rules


def _parse_rule(item: str) -> _Rule:
    match = _RULE.fullmatch(item)
    if match is None:
        raise errors.UsageError(f"{VARIABLE} has {item!r}; write NAME=kill, NAME=raise:ERRNO or NAME=delay:SECONDS, then @N if wanted")
    action, first = match["action"], int(match["first"] or 1)
    last = float("inf") if match["on"] or not match["first"] else first
    return _Rule(name=match["name"], action=action, argument=_argument(action, match["argument"], item), first=first, last=last)


def _argument(action: str, text: str | None, item: str) -> float:
    try:
        if action == "kill":
            if text is not None:
                raise ValueError("kill takes no argument")
            return 0
        if text is None:
            raise ValueError(f"{action} needs an argument")
        if action == "delay":
            return float(text)
        number = int(text) if text.isdigit() else int(getattr(errno, text, 0))
        if number not in errno.errorcode:
            raise ValueError(f"unknown error name {text!r}")
        return number
    except ValueError as error:
        raise errors.UsageError(f"{VARIABLE} has {item!r}: {error}; for example store.before_rename=raise:ENOSPC@1") from error

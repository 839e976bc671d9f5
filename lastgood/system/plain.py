"""Values that can be stored and read back unchanged: one rule for everything that people and a team's code submit for storage.

What a later step would refuse or change is refused here, at once and with its place: numbers that are not finite or that JSON
rounds, text that a database cannot store, types that JSON lacks, unbounded nesting.

What does not belong here: the meaning of a value; requests (`serving.border`); canonical bytes (`bundle.manifest`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from lastgood import errors

MAX_DEPTH = 64
"""Maximum nesting of objects and lists. Readers have a thousand frames for processing them."""
MAX_VALUES = 1_000_000
"""Maximum number of values in one object; those behind the aliases of a YAML file count each time."""
MAX_BYTES = 16 << 20
"""Maximum bytes of a text in a bundle file, as canonical JSON."""
WHOLE = 2**53
"""From here on, a JSON number cannot be distinguished from its neighbours."""

_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
_KINDS = "write it as text, a finite number, true, false, null, a list or an object with text keys"


def number(digits: str) -> int | float:
    """The number that canonical JSON writes with these digits: beyond 2^53 only floats occur, written without a point."""
    value = int(digits)
    return value if -WHOLE < value < WHOLE else float(digits)


def writable(text: str) -> bool:
    """Whether *text* can be stored as UTF-8, also by a database and a C library: no NUL, no half of a surrogate pair."""
    return _UNWRITABLE.search(text) is None


def printable(text: str) -> str:
    """*text* with a question mark in place of characters that cannot be stored."""
    return _UNWRITABLE.sub("?", text)


def check_text(text: object, *, what: str) -> None:
    """Raise UsageError, naming *what*, if *text* is not text or not every database could store it."""
    if not isinstance(text, str):
        raise errors.UsageError(f"{what} has type {type(text).__name__}; give it as text")
    if not writable(text):
        raise errors.UsageError(f"{what} {text[:100]!r} is not plain text; remove NUL characters and broken surrogates")


def tree(value: object, *, what: str) -> dict[str, Any]:
    """*value*, which must be a mapping, as plain JSON in new objects; tuples become lists. Raises UsageError, naming *what* and the place.

    It equals what is read back from its canonical JSON.
    """
    if not isinstance(value, Mapping):
        raise errors.UsageError(f"{what} has type {type(value).__name__}; give an object of names and values")
    return dict(_Copier(what).copy(value, ()))


def mended(value: Any) -> Any:
    """*value*, determined by our own program, with values that cannot be stored corrected instead of refused: it must be reported anyway.

    Text is made printable; a non-finite number, such as an infinite threshold, becomes null.
    """
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(str(name)): mended(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [mended(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Copier:
    def __init__(self, what: str) -> None:
        self._what = what
        self._left = MAX_VALUES

    def copy(self, value: Any, path: tuple[Any, ...]) -> Any:
        self._left -= 1
        if self._left < 0:
            raise errors.UsageError(
                f"{self._what} has more than {MAX_VALUES} values; keep them in a file of the bundle, and describe that file here"
            )
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self._text(value, path)
        if isinstance(value, int | float):
            return self._number(value, path)
        if not isinstance(value, Mapping | list | tuple):
            raise self._refused(path, f"has type {type(value).__name__}; {_KINDS}")
        if len(path) >= MAX_DEPTH:
            raise self._refused(path[:3], f"is nested more than {MAX_DEPTH} levels deep; use less nesting")
        if isinstance(value, Mapping):
            return {self._name(name, path): self.copy(one, (*path, name)) for name, one in value.items()}
        return [self.copy(one, (*path, number)) for number, one in enumerate(value)]

    def _name(self, name: Any, path: tuple[Any, ...]) -> str:
        if not isinstance(name, str):
            raise self._refused((*path, name), f"has a key of type {type(name).__name__}; write the key in quotes")
        return self._text(name, (*path, name))

    def _text(self, text: str, path: tuple[Any, ...]) -> str:
        if not writable(text):
            raise self._refused(path, "is not plain text; remove NUL characters and broken surrogates")
        return str.__str__(text)

    def _number(self, number: float, path: tuple[Any, ...]) -> float:
        if isinstance(number, int):
            if not -WHOLE < number < WHOLE:
                raise self._refused(path, "is a whole number beyond 2 to the power of 53, which JSON would round; write it as text")
            return int(number)
        if not math.isfinite(number):
            raise self._refused(path, f"is {float(number)}; omit it, or write null or text")
        return float(number)

    def _refused(self, path: tuple[Any, ...], problem: str) -> errors.UsageError:
        place = ".".join(_step(step) for step in path)[:200]
        return errors.UsageError(f"{self._what}: {place!r} {problem}" if place else f"{self._what} {problem}")


def _step(step: Any) -> str:
    return str(step) if isinstance(step, str) or (isinstance(step, int) and abs(step) < WHOLE) else f"({type(step).__name__})"

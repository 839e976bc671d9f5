"""The operations that every way to keep two versions of an index is measured on, and how long they took.

A way holds version A, takes B in as B arises in practice (a tenth of the rows rewritten), switches to B and back to A.
"""

from __future__ import annotations

import abc
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench import measure
from bench.index_rows import Data, K

if TYPE_CHECKING:
    from lastgood.index.snapshot import Vectors

Found = list[tuple[str, str]]
"""Ids and texts, the nearest first."""


class Way(abc.ABC):
    """One way, over the rows of *data*, in a folder of its own."""

    name: ClassVar[str]
    how: ClassVar[str]
    """For the note below the table."""
    swaps: ClassVar[int] = 20
    """How often it goes forth and back; fewer where that costs seconds."""

    def __init__(self, data: Data, folder: Path) -> None:
        self.data = data
        self.folder = folder

    @abc.abstractmethod
    def first(self) -> None:
        """A is there and answers."""

    @abc.abstractmethod
    def change(self) -> None:
        """B is ready to answer, while A still answers; or, where there is only one place, everything that can be done in advance."""

    @abc.abstractmethod
    def forth(self) -> None:
        """From now on B answers."""

    @abc.abstractmethod
    def back(self) -> None:
        """From now on A answers again."""

    @abc.abstractmethod
    def ask(self, vector: Vectors, *, k: int = K) -> Found:
        """The *k* nearest, from what answers now."""

    @abc.abstractmethod
    def stored(self) -> int:
        """Bytes that it keeps for A and B."""

    @abc.abstractmethod
    def written(self) -> dict[str, int]:
        """What has been written so far: any name, and bytes behind it; a new name or a larger number is something written."""

    def close(self) -> None:  # noqa: B027  # most hold nothing
        """Close it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one way took: `new_s` from the rows of B to its first answer, `forth_ms` and `back_ms` from deciding to the first answer.

    `moved` and `stored` are bytes; `recall` is the share of the ten truly nearest among the ten found.
    """

    name: str
    how: str
    new_s: float
    forth_ms: measure.Spread
    back_ms: measure.Spread
    moved: int
    stored: int
    ask_ms: measure.Spread
    recall: float


def figures(way: Way) -> Figures:
    """Run *way*. Raises AssertionError if the wrong version answers after a swap."""
    data = way.data
    way.first()
    _answers(way, data.told(data.a))
    change_s = measure.timed_ms(way.change) / 1000
    stored = 0
    forth, back, moved = [], [], []
    for _ in range(way.swaps):
        forth.append(_until_answered(way.forth, way, data.told(data.b)))
        stored = max(stored, way.stored())
        before = way.written()
        back.append(_until_answered(way.back, way, data.told(data.a)))
        moved.append(sum(max(0, size - before.get(name, 0)) for name, size in way.written().items()))
    took, right = [], 0
    for question, nearest in zip(data.questions, data.nearest, strict=True):
        began = time.perf_counter()
        answer = way.ask(question)
        took.append((time.perf_counter() - began) * 1000)
        right += len(nearest & {one for one, _ in answer})
    return Figures(
        name=way.name,
        how=way.how,
        new_s=change_s + forth[0] / 1000,
        forth_ms=measure.spread(forth),
        back_ms=measure.spread(back),
        moved=max(moved),
        stored=stored,
        ask_ms=measure.spread(took),
        recall=right / (K * len(data.questions)),
    )


def _until_answered(swap: Callable[[], None], way: Way, text: str) -> float:
    """Milliseconds from the decision until the right version has answered for the first time."""

    def first() -> None:
        swap()
        way.ask(way.data.probe(), k=1)

    took = measure.timed_ms(first)
    _answers(way, text)
    return took


def _answers(way: Way, text: str) -> None:
    (_, found), *_ = way.ask(way.data.probe(), k=1)
    assert found == text, f"{way.name} answers from the wrong version"


def files(folder: Path) -> dict[str, int]:
    """Every file below *folder* under a name that changes whenever it is written, with its size."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            facts = path.stat()
            found[f"{path.relative_to(folder)} {facts.st_ino} {facts.st_mtime_ns}"] = facts.st_size
    return found

"""The contract of a vector index: immutable snapshots, named by their content.

Nothing reads by an engine's aliases: the ledger records which bundle serves, the bundle names its snapshot, and a worker opens
that one. So a rollback moves nothing here; both replicas are open side by side.

Every engine passes the suite in `lastgood.conformance.index`; `lastgood.testing` ships a twin in memory.
"""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lastgood import errors
from lastgood.index import snapshot as index_snapshot

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A row that was found. `score` is the cosine similarity, or the engine's own measure for word search; higher is nearer."""

    row: index_snapshot.Row
    score: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A snapshot as an engine holds it, with the aliases that point to it.

    `bytes` on disk and `built_at` (Unix seconds) are None if the engine does not know them.
    """

    name: str
    snapshot: index_snapshot.Snapshot
    aliases: tuple[str, ...] = ()
    bytes: int | None = None
    built_at: float | None = None


class Reader(abc.ABC):
    """One open snapshot. It continues to answer while others are built, opened and retired. Safe for several threads.

    Methods raise Unavailable if the engine is unavailable.
    """

    snapshot: index_snapshot.Snapshot
    text_search: bool = True
    """Whether this engine and this snapshot support word search; if not, `search_text` is refused (NotAllowed)."""

    @abc.abstractmethod
    def search(self, vector: Vector, *, k: int) -> list[Hit]:
        """The *k* rows nearest to *vector* (dim,), nearest first. Raises UsageError for a vector that does not fit."""

    @abc.abstractmethod
    def search_text(self, words: str, *, k: int) -> list[Hit]:
        """Up to *k* rows in which *words* occur, best first; empty if there are none, or nothing to search for."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close it, so that it may be retired; may be repeated."""


class VectorIndex(abc.ABC):
    """An engine. Every method raises Unavailable if the engine is unavailable or full; nothing incomplete is ever visible."""

    @abc.abstractmethod
    def build(self, part: Path) -> Replica:
        """The replica of the index part in folder *part*, built now unless it exists. Any number may call it at once.

        Its content is checked against the part before it becomes visible. Raises Damaged if that fails.
        """

    @abc.abstractmethod
    def open(self, name: str) -> Reader:
        """A reader of the replica *name*. Raises NotFound, or Damaged for one that fails the quick check."""

    @abc.abstractmethod
    def verify(self, name: str, *, deep: bool) -> None:
        """Return if the replica is intact: by a quick check or, if *deep*, every byte and row. Raises NotFound or Damaged."""

    @abc.abstractmethod
    def replicas(self) -> list[Replica]:
        """All replicas that pass the quick check, by name. Ones being built, or never finished, are not included."""

    @abc.abstractmethod
    def retire(self, name: str) -> None:
        """Remove a replica and the remains of dead builders; already removed is fine. Raises NotAllowed while a reader has it open.

        Whether it is still needed is not known here: see `retention`.
        """

    @abc.abstractmethod
    def point(self, alias: str, name: str | None) -> None:
        """Point *alias* at the replica *name*, None for nothing; for people and other programs, nothing of ours reads by it.

        Raises NotFound if there is no such replica.
        """

    def close(self) -> None:  # noqa: B027  # an engine of files holds nothing
        """Close connections."""


def check_name(name: str) -> str:
    """*name* if it can be a replica's. Raises NotFound: names are used in paths and statements."""
    if re.fullmatch(r"idx[0-9a-f]{16}", name) is None:
        raise errors.NotFound(f"no index {name[:80]!r}; see 'lastgood index list'")
    return name


def check_query(vector: Vector, snapshot: index_snapshot.Snapshot) -> Vector:
    """*vector* as float32, if it has the dimension of *snapshot* and is finite. Raises UsageError."""
    import numpy as np

    found = np.ascontiguousarray(vector, dtype=np.float32)
    if found.shape != (snapshot.dim,):
        raise errors.UsageError(
            f"the query has shape {np.shape(vector)}, but the index needs ({snapshot.dim},); use the embedder that the index was built with"
        )
    if not np.isfinite(found).all():
        raise errors.UsageError("the query vector is not finite; embed the question again")
    return found


def check_rows(found: Sequence[index_snapshot.Packed], snapshot: index_snapshot.Snapshot, *, what: str) -> None:
    """Raise Damaged unless the rows read back, in any order, are those of *snapshot*; *what* names the replica."""
    digest = index_snapshot.rows_digest(sorted(found, key=lambda row: row.id), count=len(found))
    if digest != snapshot.rows_digest:
        raise errors.Damaged(
            f"{what} holds {len(found)} rows with digest {digest}, not {snapshot.rows} with {snapshot.rows_digest}; "
            "it is replaced by the next build"
        )

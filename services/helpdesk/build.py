"""Making the index part: chunks of a corpus with their vectors, those of an earlier index taken over where nothing changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lastgood.index import embedders
from lastgood.index import snapshot as index_snapshot

if TYPE_CHECKING:
    from lastgood.index.snapshot import Vectors


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A new index part, and how many of its rows are the same as in the previous one, changed, new, or there no more."""

    snapshot: index_snapshot.Snapshot
    same: int
    changed: int
    added: int
    removed: int
    embedded: int


def build(corpus: Path, *, embedder: embedders.Embedder, out: Path, previous: Path | None = None) -> Built:
    """Write the index part of the corpus in folder *corpus* into the new folder *out*.

    With *previous* (an index part of the same embedder) only texts that it does not have are embedded; the result is the same.
    """
    rows = read_rows(corpus / "chunks.jsonl")
    before = index_snapshot.read(previous) if previous is not None else None
    known = _vectors(previous) if previous is not None and before is not None and before.embedder == embedder.digest else {}
    missing = [row for row in rows if _key(row.text) not in known]
    fresh = embedder.embed([row.text for row in missing])
    known |= {_key(row.text): vector for row, vector in zip(missing, fresh, strict=True)}
    spec = {"metric": "cosine", "text_search": "english", "corpus": json.loads((corpus / "corpus.json").read_bytes())["version"]}
    snapshot = index_snapshot.write(rows, _stack([known[_key(row.text)] for row in rows]), out, embedder=embedder.digest, spec=spec)
    return Built(snapshot=snapshot, embedded=len(missing), **_compared(rows, previous))


def read_rows(chunks: Path) -> list[index_snapshot.Row]:
    """The chunks of a corpus as rows of an index."""
    return [index_snapshot.Row(**json.loads(line)) for line in chunks.read_text("utf-8").splitlines()]


def _vectors(part: Path) -> dict[bytes, Vectors]:
    rows = index_snapshot.read_rows(part)
    return {_key(row.text): vector for row, vector in zip(rows, index_snapshot.read_vectors(part), strict=True)}


def _compared(rows: Sequence[index_snapshot.Row], previous: Path | None) -> dict[str, int]:
    old = {row.id: (row.text, dict(row.meta)) for row in index_snapshot.read_rows(previous)} if previous is not None else {}
    new = {row.id: (row.text, dict(row.meta)) for row in rows}
    same = sum(old.get(name) == row for name, row in new.items())
    added = len(new.keys() - old.keys())
    return {"same": same, "changed": len(new) - added - same, "added": added, "removed": len(old.keys() - new.keys())}


def _stack(vectors: Sequence[Vectors]) -> Vectors:
    import numpy as np

    return np.stack(vectors) if vectors else np.zeros((0, 1), dtype=np.float32)


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).digest()

"""The index part of a bundle: every row with its vector, in an engine-independent form.

    snapshot.json    what the index is: rows, their digest, dimension, embedder, specification
    rows.jsonl       {"id", "meta", "text"} of each row, one a line, in the order of the ids
    vectors.npy      float32, little-endian, (rows, dim), in the same order

Vectors are primary data: the same model gives other bytes on another machine, so the evaluated ones are stored. An engine
builds a *replica* from it, which may be lost, and proves by `rows_digest` that it holds the same rows. The id of a snapshot
is the SHA-256 of the canonical bytes of snapshot.json, so equal rows under an equal specification have one id, however and
wherever they are built.

What does not belong here: engines (`lancedb`, `pgvector`, `pinecone`), how a vector is computed (`embedders`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lastgood import errors
from lastgood.bundle import manifest
from lastgood.index import words
from lastgood.system import files

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]

SCHEMA = "lastgood.index/v1"
FILE, ROWS, VECTORS = "snapshot.json", "rows.jsonl", "vectors.npy"
MEDIA_TYPE = "application/vnd.lastgood.index"
MAX_ID = 512
"""Maximum length of an id in bytes; every engine indexes it."""
MAX_TEXT = 1 << 20
"""Maximum length of a row's text in bytes: results go into a prompt, so a longer one is a chunking error."""
MAX_DIM = 16_000
"""Largest number of dimensions that pgvector stores."""

Scalar = str | int | bool | None
Meta = Mapping[str, Scalar]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One searchable row. `meta` maps names to strings, whole numbers, true, false or null."""

    id: str
    text: str
    meta: Meta = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The description of an index, without its rows.

    `embedder` is the digest of the weights and the tokenizer that made the vectors, `spec` what an engine is to build from
    them (`metric`, `text_search`: see `words`) and how the rows were made (`chunking`), in plain JSON.
    """

    rows: int
    rows_digest: str
    dim: int
    embedder: str
    spec: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The content of snapshot.json."""
        named = {name: getattr(self, name) for name in ("rows", "rows_digest", "dim", "embedder")}
        return {"schema": SCHEMA, **named, "spec": dict(self.spec)}

    @property
    def id(self) -> str:
        """`sha256:` and the hex SHA-256 of the canonical bytes."""
        return manifest.sha256(manifest.canonical(self.to_json()))

    @property
    def name(self) -> str:
        """The name of a replica in an engine."""
        return name_of(self.id)

    def meta(self) -> dict[str, Any]:
        """A bundle manifest's entry for its index part; `embedder` must be that of its model part."""
        return {"snapshot": self.id, "rows": self.rows, "dim": self.dim, "embedder": self.embedder}


def name_of(snapshot_id: str) -> str:
    """The name in an engine of a replica of the snapshot with this id: `idx` and 16 of its hex digits."""
    return f"idx{snapshot_id[7:23]}"


# --- writing -----------------------------------------------------------------------------------


def write(rows: Sequence[Row], vectors: Vectors, out: Path, *, embedder: str, spec: Mapping[str, Any] | None = None) -> Snapshot:
    """Write the part of *rows* and their *vectors*, (rows, dim) in the same order, into the new or empty folder *out*.

    The order does not matter: rows are sorted by id. Raises UsageError for no rows, ids that are empty, too long or
    duplicate, text that no engine can store, vectors that are not finite or do not fit.
    """
    import numpy as np

    words.check_spec(spec or {})
    order = _order(rows)
    block = checked_vectors(vectors, rows=len(rows))[order]
    packed = [_pack(rows[number], vector) for number, vector in zip(order, block, strict=True)]
    snapshot = Snapshot(
        rows=len(packed), rows_digest=rows_digest(packed, count=len(packed)), dim=block.shape[1], embedder=embedder, spec=dict(spec or {})
    )
    files.new_folder(out)
    with (out / ROWS).open("wb") as file:
        file.writelines(
            b'{"id":%b,"meta":%b,"text":%b}\n' % (_json(rows[n].id), row.meta, _json(rows[n].text))
            for n, row in zip(order, packed, strict=True)
        )
    with (out / VECTORS).open("wb") as file:
        np.lib.format.write_array(file, block, version=(1, 0), allow_pickle=False)
    (out / FILE).write_bytes(manifest.canonical(snapshot.to_json()))
    return snapshot


def _order(rows: Sequence[Row]) -> list[int]:
    """The numbers of *rows* in the order of their ids' UTF-8 bytes."""
    if not rows:
        raise errors.UsageError("an index needs rows, but there are none; check the corpus that it is built from")
    ids = [_checked_id(row) for row in rows]
    order = sorted(range(len(ids)), key=ids.__getitem__)
    for one, other in itertools.pairwise(order):
        if ids[one] == ids[other]:
            raise errors.UsageError(f"the id {rows[one].id!r} is used twice; give every row its own id")
    return order


def _checked_id(row: Row) -> bytes:
    try:
        found = row.id.encode("utf-8")
    except UnicodeEncodeError as error:
        raise errors.UsageError(f"the id {row.id!r} is not valid Unicode: {error}; correct it") from error
    if not 0 < len(found) <= MAX_ID or "\0" in row.id:
        raise errors.UsageError(f"the id {row.id[:80]!r} is empty, longer than {MAX_ID} bytes or contains a NUL character; correct it")
    return found


def checked_vectors(vectors: Vectors, *, rows: int) -> Vectors:
    """*vectors* as C-ordered float32 without negative zeros. Raises UsageError, naming the row where there is one."""
    import numpy as np

    block = np.ascontiguousarray(vectors, dtype="<f4")
    if block.ndim != 2 or block.shape[0] != rows or not 1 <= block.shape[1] <= MAX_DIM:
        raise errors.UsageError(f"vectors have shape {np.shape(vectors)}; expected ({rows}, 1 to {MAX_DIM}); embed each row once")
    wrong = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if wrong.size:
        raise errors.UsageError(f"the vector of row {int(wrong[0])} is not finite ({wrong.size} such rows); embed them again")
    return block + np.float32(0.0)  # -0.0 and 0.0 are one number and must have one digest


def _pack(row: Row, vector: npt.NDArray[np.float32]) -> Packed:
    try:
        packed = pack(row, vector.tobytes())
    except UnicodeEncodeError as error:
        raise errors.UsageError(f"row {row.id!r} is not valid Unicode: {error}; correct its text") from error
    if not row.text.strip() or len(packed.text) > MAX_TEXT or "\0" in row.text:
        raise errors.UsageError(
            f"the text of row {row.id!r} is empty, longer than {MAX_TEXT} bytes or contains a NUL character; chunk it differently"
        )
    return packed


def pack(row: Row, vector: bytes) -> Packed:
    """*row* with its vector's bytes, ready for hashing."""
    return Packed(row.id.encode("utf-8"), row.text.encode("utf-8"), canonical_meta(row.meta), vector)


def canonical_meta(meta: Mapping[Any, Any]) -> bytes:
    """RFC 8785 bytes of *meta*. Raises UsageError for anything that is not such a mapping.

    With names and values so limited, the standard library writes the same bytes as the canonical form, thirty times faster.
    """
    for name, value in meta.items():
        plain = value is None or isinstance(value, str | bool) or (isinstance(value, int) and abs(value) < 1 << 53)
        if not (isinstance(name, str) and name.isascii() and name.isprintable() and plain) or (isinstance(value, str) and "\0" in value):
            raise errors.UsageError(
                f"meta {name!r} is {value!r}; names must be ASCII, values must be text, whole numbers, true, false or null"
            )
    return _json(dict(sorted(meta.items())))


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")


# --- the digest of the rows --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Packed:
    """One row as bytes: id and text in UTF-8, meta as `canonical_meta` writes it, the vector's little-endian float32 values."""

    id: bytes
    text: bytes
    meta: bytes
    vector: bytes

    def digest(self) -> bytes:
        """The 32 bytes that stand for it, with lengths, so that nothing can move from one field to the next."""
        text = hashlib.sha256(self.text).digest()
        head = struct.pack("<I", len(self.id)) + self.id + text + struct.pack("<I", len(self.meta)) + self.meta
        return hashlib.sha256(head + self.vector).digest()


def rows_digest(rows: Iterable[Packed], *, count: int) -> str:
    """The digest of *count* rows, given in the order of their ids: SHA-256 over the rows' own. The same from every engine."""
    total = hashlib.sha256(b"rows %d\n" % count)
    for row in rows:
        total.update(row.digest())
    return "sha256:" + total.hexdigest()


# --- reading -----------------------------------------------------------------------------------


def read(part: Path) -> Snapshot:
    """The description in the index part in folder *part*. Raises NotFound or Damaged."""
    try:
        data = (part / FILE).read_bytes()
    except OSError as error:
        raise errors.NotFound(f"{str(part)!r} is not an index part: {error.strerror}; build the index again") from error
    return parse(data, where=str(part / FILE))


def parse(data: bytes, *, where: str) -> Snapshot:
    """The snapshot whose canonical bytes are *data*; *where* names them in errors. Raises Damaged."""
    try:
        found = json.loads(data)
        schema = found.pop("schema")
        snapshot = Snapshot(**found)
        if schema != SCHEMA or manifest.canonical(snapshot.to_json()) != data or not manifest.is_digest(snapshot.rows_digest):
            raise ValueError("it is not in the canonical form of " + SCHEMA)
    except (ValueError, TypeError, KeyError, AttributeError, errors.Damaged) as error:
        raise errors.Damaged(f"{where} does not describe a snapshot: {error}; build the index again") from error
    return snapshot


def read_rows(part: Path) -> Iterator[Row]:
    """The rows of a part, in the order of their ids. Raises Damaged."""
    try:
        with (part / ROWS).open("rb") as lines:
            for line in lines:
                yield Row(**json.loads(line))
    except (OSError, ValueError, TypeError) as error:
        raise errors.Damaged(f"{str(part / ROWS)!r} cannot be read: {error}; build the index again") from error


def read_vectors(part: Path) -> Vectors:
    """The vectors of a part, mapped from disk: float32, (rows, dim). Raises Damaged."""
    import numpy as np

    try:
        found = np.load(part / VECTORS, mmap_mode="r", allow_pickle=False)
        if found.dtype != np.dtype("<f4") or found.ndim != 2:
            raise ValueError(f"it is {found.dtype} of shape {found.shape}")
    except (OSError, ValueError, EOFError) as error:
        raise errors.Damaged(f"{str(part / VECTORS)!r} does not hold vectors: {error}; build the index again") from error
    vectors: Vectors = found
    return vectors


def read_packed(part: Path) -> list[Packed]:
    """The rows of a part with their vectors, in the order of their ids. Raises Damaged."""
    vectors = read_vectors(part)
    rows = list(read_rows(part))
    if len(rows) != len(vectors):
        raise errors.Damaged(f"{str(part)!r} has {len(rows)} rows and {len(vectors)} vectors; build the index again")
    return [pack(row, vector.tobytes()) for row, vector in zip(rows, vectors, strict=True)]


def verify(part: Path) -> Snapshot:
    """The snapshot of *part*, if its rows and vectors match the description. Raises Damaged or NotFound."""
    snapshot = read(part)
    shape = read_vectors(part).shape
    packed = read_packed(part)
    if shape != (snapshot.rows, snapshot.dim) or rows_digest(packed, count=len(packed)) != snapshot.rows_digest:
        raise errors.Damaged(f"the rows of {str(part)!r} do not match its description; build the index again")
    return snapshot

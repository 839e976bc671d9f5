"""LanceDB, the default engine: one folder of files per snapshot, written once, never modified.

    <root>/idx<16 hex>/{snapshot.json, files.json, stamps.json, lance/…}
    <root>/.staging/<random>     being built; not visible; its builder holds a lock that dies with it
    <root>/.leases/<name>        locked, shared, by every open reader
    <root>/<alias>               a symbolic link, for people

A replica appears by one rename of a folder whose every byte is on disk and was read back. Up to FLAT_ROWS rows each query
compares all vectors; above, it searches a quantized copy of all of them (an index of one list), and compares the best exactly.
Nothing depends on k-means or a random graph, but quantization begins with a random rotation: of 6,000 questions to 100,000 embedded
texts one lost one of its ten rows, of vectors without any structure six in a thousand. LanceDB does not check bytes when it reads,
so `files.json` contains the SHA-256 of each file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lastgood import errors
from lastgood.bundle import manifest, store
from lastgood.index import base, words
from lastgood.index import snapshot as index_snapshot
from lastgood.index.words import refuse
from lastgood.system import clock, files
from lastgood.system.failpoints import failpoint

if TYPE_CHECKING:
    import pyarrow as pa

FLAT_ROWS = 4_000
"""Up to this many rows comparing every vector is faster than using an index."""
NPROBES = 80
"""All lists: there is one. Replicas of up to half a million rows that were built before had no more than this."""
REFINE = 5
"""Multiple of the wanted rows compared exactly: recall@10 of a million embedded texts is 1.0, with 2 it is .998. Each costs time."""

_FILES = "files.json"
_TABLE = "rows"


class LanceIndex(base.VectorIndex):
    """See the module. *root* is a folder on a local disk: the locks are of the operating system."""

    def __init__(self, root: Path) -> None:
        self.root = root

    # --- building --------------------------------------------------------------------------------------------

    def build(self, part: Path) -> base.Replica:
        snapshot = index_snapshot.read(part)
        with self._disk_errors():
            try:
                self.verify(snapshot.name, deep=True)
            except errors.NotFound:
                self._make(part, snapshot)
            except errors.Damaged:
                self._set_aside(snapshot.name)
                self._make(part, snapshot)
        return self._replica(snapshot.name)

    def _make(self, part: Path, snapshot: index_snapshot.Snapshot) -> None:
        with self._staging() as stage:
            folder = stage / snapshot.name
            folder.mkdir()
            rows = index_snapshot.read_packed(part)
            _fill(folder / "lance", rows, snapshot)
            failpoint("index.before_check")
            base.check_rows(_read_back(folder / "lance", snapshot), snapshot, what=f"the new replica {snapshot.name!r}")
            (folder / index_snapshot.FILE).write_bytes(manifest.canonical(snapshot.to_json()))
            (folder / _FILES).write_bytes(store.digest_tree(folder).canonical())
            names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
            files.seal(folder, names)
            failpoint("index.before_rename")
            try:
                folder.rename(self.root / snapshot.name)
            except OSError as error:  # another process may have been faster with the same
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            failpoint("index.after_rename")
            files.sync(self.root)
            (self.root / snapshot.name).chmod(0o500)

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        """A private, invisible folder, removed when the block ends; the remains of dead builders are removed as well.

        The lock on it dies with its builder. Folders are created and swept under one lock, so that none is swept in between.
        """
        parent = self.root / ".staging"
        parent.mkdir(parents=True, exist_ok=True)
        with _locked(parent):
            _sweep(parent)
            folder = Path(tempfile.mkdtemp(dir=parent))
            held = _lock(folder)
        try:
            yield folder
        finally:
            files.discard(folder)
            os.close(held)

    def sweep(self) -> int:
        """Remove the remains of dead builders; returns how many there were."""
        parent = self.root / ".staging"
        if not parent.is_dir():
            return 0
        with _locked(parent):
            return _sweep(parent)

    def _set_aside(self, name: str) -> None:
        """Keep a damaged replica as evidence where it cannot be opened."""
        evidence = self.root / ".damaged"
        evidence.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (self.root / name).rename(Path(tempfile.mkdtemp(dir=evidence, prefix=f"{name}-")) / name)

    # --- reading ---------------------------------------------------------------------------------------------

    def open(self, name: str) -> base.Reader:
        with self._disk_errors():
            lease = self._lease(name)
            try:
                self.verify(name, deep=False)
                return _Reader(self.root / name, lease)
            except BaseException:
                os.close(lease)
                raise

    def verify(self, name: str, *, deep: bool) -> None:
        folder = self.root / name
        snapshot = self._described(name)
        try:
            listing = store.parse_listing((folder / _FILES).read_bytes())
        except OSError as error:
            raise _damaged(name, f"{_FILES} cannot be read: {error.strerror}") from error
        found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
        expected = {entry.path: entry for entry in listing.entries}
        for missing in sorted(found ^ (expected.keys() | {_FILES, files.STAMPS})):
            raise _damaged(name, f"{missing!r} is {'missing' if missing in expected else 'unexpected'}")
        stamps = {} if deep else files.stamps(folder)
        for path, entry in expected.items():
            if stamps.get(path) != files.stamp(folder / path) and store.digest_file(folder / path) != f"sha256:{entry.sha256}":
                raise _damaged(name, f"{path!r} differs from what was written")
        if deep:
            base.check_rows(_read_back(folder / "lance", snapshot), snapshot, what=f"replica {name!r}")

    def replicas(self) -> list[base.Replica]:
        found = []
        with self._disk_errors():
            names = sorted(os.listdir(self.root)) if self.root.exists() else []
            for name in names:
                if name.startswith("idx") and not (self.root / name).is_symlink():
                    with contextlib.suppress(errors.Damaged, errors.NotFound):
                        found.append(self._replica(name))
        return found

    def _replica(self, name: str) -> base.Replica:
        folder = self.root / name
        snapshot = self._described(name)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        aliases = tuple(sorted(alias for alias, pointed in self._pointed().items() if pointed == name))
        return base.Replica(
            name=name, snapshot=snapshot, aliases=aliases, bytes=size, built_at=clock.of_machine((folder / _FILES).stat().st_mtime)
        )

    def _described(self, name: str) -> index_snapshot.Snapshot:
        file = self.root / base.check_name(name) / index_snapshot.FILE
        try:
            snapshot = index_snapshot.parse(file.read_bytes(), where=str(file))
        except (FileNotFoundError, NotADirectoryError) as error:
            if (self.root / name).is_dir():
                raise _damaged(name, f"{index_snapshot.FILE} is missing") from error
            raise errors.NotFound(f"no index {name!r} in {str(self.root)!r}; it will be built from the bundle's index part") from error
        if snapshot.name != name:
            raise _damaged(name, f"{index_snapshot.FILE} describes {snapshot.name!r}")
        return snapshot

    # --- names and ends --------------------------------------------------------------------------------------

    def retire(self, name: str) -> None:
        with self._disk_errors():
            self.sweep()
            if not (self.root / name).is_dir():
                return
            lease = self._lease(name, exclusive=True)
            try:
                with self._staging() as stage:
                    failpoint("index.before_retire")
                    (self.root / name).rename(stage / name)
                    files.sync(self.root)
            finally:
                os.close(lease)

    def point(self, alias: str, name: str | None) -> None:
        link, fresh = self.root / alias, self.root / f".{alias}.{os.getpid()}"
        with self._disk_errors():
            if name is None:
                link.unlink(missing_ok=True)
                return
            self._described(name)
            if self._pointed().get(alias) == name:
                return
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(name)
            fresh.rename(link)

    def _pointed(self) -> dict[str, str]:
        return {link.name: link.readlink().name for link in self.root.iterdir() if link.is_symlink() and not link.name.startswith(".")}

    def _lease(self, name: str, *, exclusive: bool = False) -> int:
        base.check_name(name)
        folder = self.root / ".leases"
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            if exclusive:
                raise errors.NotAllowed(f"index {name!r} is open in a process that serves it; stop that process first") from None
            raise errors.NotFound(f"index {name!r} is being retired; it will be built again from the bundle's index part") from None
        return handle

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise errors.Unavailable(
                f"the index in {str(self.root)!r} cannot be used: {error}; check free space and permissions there"
            ) from error


class _Reader(base.Reader):
    """Files are opened as needed, so a replica that is replaced under a reader is reopened by its next query."""

    def __init__(self, folder: Path, lease: int) -> None:
        self.snapshot = index_snapshot.read(folder)
        self.text_search = words.of_spec(self.snapshot.spec) != words.NONE
        self._folder = folder
        self._lease: int | None = lease
        self._table = self._opened()

    def _opened(self) -> Any:
        return _connect(self._folder / "lance").open_table(_TABLE)

    def search(self, vector: base.Vector, *, k: int) -> list[base.Hit]:
        query = base.check_query(vector, self.snapshot)

        def ask(table: Any) -> pa.Table:
            asked = table.search(query, vector_column_name="vector").distance_type("cosine")
            if self.snapshot.rows > FLAT_ROWS:
                asked = asked.nprobes(NPROBES).refine_factor(REFINE)
            return asked.select(["id", "text", "meta", "_distance"]).limit(k).to_arrow()

        return _hits(self._ask(ask), score=lambda row: 1.0 - row["_distance"])

    def search_text(self, words: str, *, k: int) -> list[base.Hit]:
        from lancedb import query

        if not self.text_search:
            raise refuse()
        if not words.strip():
            return []
        match: Any = query.MatchQuery  # its types require what has a default

        def ask(table: Any) -> pa.Table:
            return table.search(match(words, "text"), query_type="fts").select(["id", "text", "meta", "_score"]).limit(k).to_arrow()

        return _hits(self._ask(ask), score=lambda row: row["_score"])

    def _ask(self, ask: Callable[[Any], pa.Table]) -> pa.Table:
        if self._lease is None:
            raise errors.UsageError(f"the reader of index {self.snapshot.name!r} is closed; open it again")
        try:
            return ask(self._table)
        except (RuntimeError, OSError):
            try:
                self._table = self._opened()
                return ask(self._table)
            except (RuntimeError, ValueError, OSError) as error:
                raise errors.Unavailable(
                    f"index {self.snapshot.name!r} cannot be read: {error}; it will be built again from the bundle's index part"
                ) from error

    def close(self) -> None:
        if self._lease is not None:
            os.close(self._lease)
            self._lease = None


def _hits(found: pa.Table, *, score: Any) -> list[base.Hit]:
    """Best first; equal ones by id, so that the same question has the same answer."""
    hits = [
        base.Hit(row=index_snapshot.Row(id=row["id"], text=row["text"], meta=json.loads(row["meta"])), score=float(score(row)))
        for row in found.to_pylist()
    ]
    return sorted(hits, key=lambda hit: (-hit.score, hit.row.id))


# --- LanceDB's own calls -------------------------------------------------------------------------------------


def _connect(folder: Path) -> Any:
    os.environ.setdefault("LANCEDB_LOG", "error")
    import lancedb

    return lancedb.connect(folder)


def _fill(folder: Path, rows: list[index_snapshot.Packed], snapshot: index_snapshot.Snapshot) -> None:
    import numpy as np
    import pyarrow as pa
    from lancedb.index import FTS, BTree

    flat = pa.array(np.frombuffer(b"".join(row.vector for row in rows), dtype="<f4"))
    table = pa.table(
        {
            "id": pa.array([row.id.decode() for row in rows], pa.string()),
            "text": pa.array([row.text.decode() for row in rows], pa.string()),
            "meta": pa.array([row.meta.decode() for row in rows], pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(flat, snapshot.dim),
        }
    )
    made = _connect(folder).create_table(_TABLE, table)
    made.create_index("id", config=BTree())
    way = words.of_spec(snapshot.spec)
    if way == words.NGRAM:
        # Pieces of two: a Chinese word is usually no longer.
        asked = FTS(base_tokenizer="ngram", ngram_min_length=words.GRAM, ngram_max_length=words.GRAM, stem=False, remove_stop_words=False)
        made.create_index("text", config=asked)
    elif way != words.NONE:
        made.create_index("text", config=FTS(language=way.title(), stem=True, remove_stop_words=True, ascii_folding=way == words.DEFAULT))
    if snapshot.rows > FLAT_ROWS:
        made.create_index("vector", config=rounded(snapshot.dim))


def rounded(dim: int) -> Any:
    """The index over vectors of *dim* numbers: one list, 4 bits a number. Where LanceDB cannot do that: 8 bits, exact, and slower."""
    from lancedb.index import IvfRq, IvfSq

    if dim % 8:
        return IvfSq(distance_type="cosine", num_partitions=1)
    return IvfRq(distance_type="cosine", num_partitions=1, num_bits=4)


def _read_back(folder: Path, snapshot: index_snapshot.Snapshot) -> list[index_snapshot.Packed]:
    try:
        found = _connect(folder).open_table(_TABLE).to_arrow().combine_chunks()
        vectors = found.column("vector").combine_chunks()
        block = vectors.flatten().to_numpy().reshape(len(found), snapshot.dim)
        columns = [found.column(name).to_pylist() for name in ("id", "text", "meta")]
    except (RuntimeError, ValueError, OSError) as error:
        raise errors.Damaged(f"{str(folder)!r} cannot be read: {error}; it is replaced by the next build") from error
    return [index_snapshot.Packed(i.encode(), t.encode(), m.encode(), v.tobytes()) for i, t, m, v in zip(*columns, block, strict=True)]


def _lock(folder: Path, *, wait: bool = True) -> int:
    """An exclusive lock on *folder* itself, released with the handle. Raises BlockingIOError if it is held and must not be waited for."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = _lock(folder)
    try:
        yield
    finally:
        os.close(handle)


def _sweep(parent: Path) -> int:
    swept = 0
    for folder in parent.iterdir():
        with contextlib.suppress(BlockingIOError, FileNotFoundError):  # its builder lives, or has just ended
            handle = _lock(folder, wait=False)
            files.discard(folder)
            os.close(handle)
            swept += 1
    return swept


def _damaged(name: str, what: str) -> errors.Damaged:
    return errors.Damaged(f"index {name!r} is damaged: {what}; it is replaced by the next build")

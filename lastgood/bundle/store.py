"""The content-addressed store: a read returns exactly what was stored under a digest, or fails.

    <root>/sha256/<hex>/content                 a file
    <root>/sha256/<hex>/{tree/…, listing.json}  a folder; its digest is the SHA-256 of listing.json
    <root>/sha256/<hex>/stamps.json             size and times of every file, for the fast check
    <root>/.staging/<random>                    being written; not visible; removed when a day old
    <root>/.damaged/<hex>-<random>              what a repair replaced, kept as evidence

An object appears by one rename of a folder whose every byte is already on disk, so a kill at any moment
leaves either nothing or all of it. Sources are copied, never hard-linked: a later write into the source
would otherwise change the stored bytes, and file modes do not stop root.

What does not belong here: which formats are safe (`formats`), which bundle serves (`ledger`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

from lastgood import errors
from lastgood.bundle import formats, manifest
from lastgood.bundle.formats import CONFIG_FORMATS, DATA_FORMATS, MODEL_FORMATS
from lastgood.system import files as system_files
from lastgood.system.failpoints import failpoint

__all__ = [
    "CONFIG_FORMATS",
    "DATA_FORMATS",
    "MODEL_FORMATS",
    "Entry",
    "Listing",
    "Store",
    "Stored",
    "digest_file",
    "digest_tree",
    "load_skops",
    "normalise_skops",
    "parse_listing",
    "part",
]

_STALE_S = 86_400


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What is stored: `size` in bytes (of all files for a folder), `uri` is `store:` and the digest."""

    digest: str
    size: int
    kind: Literal["file", "tree"]
    uri: str


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One file of a folder: relative path with `/`, bytes, hex SHA-256."""

    path: str
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True)
class Listing:
    """The files of a folder, sorted by path. Empty folders, modes and times are not content and are not listed."""

    entries: tuple[Entry, ...]

    def canonical(self) -> bytes:
        """RFC 8785 bytes of the list of {path, size, sha256}."""
        return manifest.canonical([{"path": e.path, "size": e.size, "sha256": e.sha256} for e in self.entries])

    @property
    def digest(self) -> str:
        """`sha256:` and the hex SHA-256 of the canonical list."""
        return manifest.sha256(self.canonical())

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(e.size for e in self.entries)


def parse_listing(data: bytes) -> Listing:
    """The listing whose canonical bytes are *data*. Raises Damaged if malformed, NotAllowed if a name is hostile."""
    try:
        listing = Listing(tuple(_entry(row) for row in json.loads(data)))
        if listing.canonical() != data or list(listing.entries) != sorted(set(listing.entries)):
            raise ValueError("it is not in canonical form")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise errors.Damaged(f"a folder listing does not parse: {error}; build or import the part again") from error
    formats.check_paths(e.path for e in listing.entries)
    return listing


def _entry(row: Any) -> Entry:
    path, size, sha256 = row["path"], row["size"], row["sha256"]
    typed = isinstance(path, str) and type(size) is int and isinstance(sha256, str)
    if len(row) != 3 or not typed or size < 0 or not manifest.is_digest(f"sha256:{sha256}"):
        raise ValueError("an entry has an invalid value")
    return Entry(path=path, size=size, sha256=sha256)


def digest_file(path: Path) -> str:
    """`sha256:<hex>` of a regular file's bytes. Raises NotAllowed for a link or a device, NotFound if missing."""
    with formats.open_regular(path) as file:
        return f"sha256:{system_files.measure(file)[1]}"


def digest_tree(path: Path) -> Listing:
    """The listing of a folder as it is now. Raises NotAllowed for links, devices and hostile names."""
    return Listing(tuple(_listed(path, name) for name in formats.walk(path)))


def _listed(root: Path, name: str) -> Entry:
    with formats.open_regular(root / name) as file:
        size, hexdigest = system_files.measure(file)
    return Entry(path=name, size=size, sha256=hexdigest)


def part(stored: Stored, *, name: str, media_type: str, meta: Mapping[str, Any]) -> manifest.Part:
    """The bundle part whose content is *stored*."""
    return manifest.Part(name=name, digest=stored.digest, size=stored.size, media_type=media_type, uri=stored.uri, meta=meta)


def load_skops(path: Path, *, trusted: Collection[str]) -> object:
    """The object in a skops file, if every type it names is in our fixed list or in *trusted*. See `skops.load`."""
    from lastgood.bundle import skops as skops_bytes

    return skops_bytes.load(path, trusted=trusted)


def normalise_skops(path: Path) -> str:
    """Rewrite a skops file so that the same fitted model gives the same bytes; return its digest. See `skops.normalise`."""
    from lastgood.bundle import skops as skops_bytes

    return skops_bytes.normalise(path)


class Store:
    """A folder of immutable objects. Any number of processes may read and put at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, source: Path, *, allow: frozenset[str] | None = None) -> Stored:
        """Copy a file or a folder in and return its digest; durable when this returns, idempotent, all or nothing.

        *allow* holds the suffixes that may occur (`MODEL_FORMATS`, …). In any case links, devices, hostile names,
        pickles and files that are not what their suffix says are refused (NotAllowed), and so is an empty part
        (UsageError). A damaged object of the same digest is replaced. Raises Unavailable if the disk fails.
        """
        with self._disk_errors(), self.staging() as staging:
            if source.is_dir() and not source.is_symlink():
                return self._put_tree(source, staging, allow)
            with formats.open_regular(source) as file:
                return self._put_file(file, staging, name=source.name, allow=allow)

    def put_bytes(self, data: bytes, *, name: str) -> Stored:
        """Like `put`, for bytes in memory; the suffix of *name* gives their format."""
        with self._disk_errors(), self.staging() as staging:
            return self._put_file(io.BytesIO(data), staging, name=name, allow=None)

    def check(self, source: Path, *, allow: frozenset[str] | None = None) -> None:
        """Raise what `put` would raise about the names and the content of *source*; store nothing."""
        folder = source.is_dir() and not source.is_symlink()
        for name in formats.walk(source) if folder else [source.name]:
            formats.check_suffix(formats.check_path(name), allow)
            with formats.open_regular(source / name if folder else source) as file:
                formats.check_content(file, name=name)

    def path(self, digest: str) -> Path:
        """The stored file, or the folder of a tree. Does not verify. Raises NotFound."""
        folder = self._folder(digest)
        for name in ("content", "tree"):
            if (folder / name).exists():
                return folder / name
        raise errors.NotFound(f"{digest} is not in the store {str(self.root)!r}; build it again or import its bundle")

    def has(self, digest: str) -> bool:
        """True if an object is filed under *digest*; its bytes are not checked."""
        return self._folder(digest).is_dir()

    def digests(self) -> Iterator[str]:
        """Every stored digest, sorted."""
        folder = self.root / "sha256"
        names = sorted(item.name for item in folder.iterdir()) if folder.is_dir() else []
        yield from filter(manifest.is_digest, (f"sha256:{name}" for name in names))

    def stored(self, digest: str) -> Stored:
        """What is filed under *digest*, without verifying. Raises NotFound, or Damaged if a tree's listing is unreadable."""
        path = self.path(digest)
        if path.name == "content":
            return Stored(digest=digest, size=path.stat().st_size, kind="file", uri=f"store:{digest}")
        return Stored(digest=digest, size=self.listing(digest).size, kind="tree", uri=f"store:{digest}")

    def listing(self, digest: str) -> Listing:
        """The listing of a stored folder, checked against its digest. Raises NotFound or Damaged."""
        file = self._folder(digest) / "listing.json"
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            if self.has(digest):
                raise _damaged(digest, "listing.json", expected=digest, found="no file") from None
            self.path(digest)
            raise
        if manifest.sha256(data) != digest:
            raise _damaged(digest, "listing.json", expected=digest, found=manifest.sha256(data))
        return parse_listing(data)

    def verify(self, digest: str, *, deep: bool = True) -> None:
        """Return if the object is intact. Raises NotFound, or Damaged naming the file, the expected and the actual content.

        *deep* hashes every byte. Otherwise a file is hashed only if its size or times differ from those recorded when it was
        stored, which detects every change except one that also forges those times.
        """
        folder = self._folder(digest)
        if not folder.is_dir():
            self.path(digest)
        stamps = {} if deep else system_files.stamps(folder)
        try:
            for name, entry in self._expected(digest).items():
                if stamps.get(name) != system_files.stamp(folder / name):
                    _verify_file(folder / name, entry, digest=digest)
        except OSError as error:
            raise errors.Unavailable(f"{digest} cannot be read: {error}; check the disk of {str(self.root)!r}") from error

    def verify_bundle(self, bundle: manifest.Bundle, *, deep: bool = True) -> None:
        """Return if every part is stored, intact and of the size in the manifest. Raises NotFound or Damaged."""
        for item in bundle.parts.values():
            self.verify(item.digest, deep=deep)
            found = self.stored(item.digest).size
            if found != item.size:
                raise errors.Damaged(
                    f"part {item.name!r} of {bundle.service!r} states {item.size} bytes, but {item.digest} has {found}; build the bundle again"
                )

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """A private folder on the store's file system, removed when the block ends. Removes ones that were left a day ago."""
        parent = self.root / ".staging"
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=parent))
        try:
            _remove_stale(parent, folder)
            yield folder
        finally:
            system_files.discard(folder)

    def _folder(self, digest: str) -> Path:
        if not manifest.is_digest(digest):
            raise errors.UsageError(f"{digest!r} is not a digest; expected sha256: and 64 lower-case hex digits")
        return self.root / "sha256" / digest.removeprefix("sha256:")

    def _put_file(self, source: BinaryIO, staging: Path, *, name: str, allow: frozenset[str] | None) -> Stored:
        formats.check_path(name)
        formats.check_suffix(name, allow)
        (staging / "object").mkdir()
        entry = _copy(source, staging / "object" / "content", name=name)
        if entry.size == 0:
            raise errors.UsageError(f"{name!r} is empty; a part needs content")
        digest = f"sha256:{entry.sha256}"
        self._commit(staging / "object", digest, ["content"])
        return Stored(digest=digest, size=entry.size, kind="file", uri=f"store:{digest}")

    def _put_tree(self, source: Path, staging: Path, allow: frozenset[str] | None) -> Stored:
        names = formats.walk(source)
        for name in names:
            formats.check_suffix(name, allow)
        if not names:
            raise errors.UsageError(f"{str(source)!r} contains no file; a part needs content")
        tree = staging / "object" / "tree"
        entries = []
        for name in names:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            with formats.open_regular(source / name) as file:
                entries.append(_copy(file, tree / name, name=name))
        listing = Listing(tuple(entries))
        (staging / "object" / "listing.json").write_bytes(listing.canonical())
        self._commit(staging / "object", listing.digest, [f"tree/{n}" for n in names] + ["listing.json"])
        return Stored(digest=listing.digest, size=listing.size, kind="tree", uri=f"store:{listing.digest}")

    def _commit(self, staged: Path, digest: str, files: list[str]) -> None:
        target = self._folder(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not self._whole(target, like=staged):
            system_files.seal(staged, files)
            failpoint("store.before_rename")
            try:
                os.rename(staged, target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                self._replace(staged, target)
            failpoint("store.after_rename")
            target.chmod(0o500)  # only now: renaming a folder that is read-only is refused to everyone but root
        system_files.sync(target.parent)

    def _whole(self, target: Path, *, like: Path) -> bool:
        """True if *target* is stored and undamaged; every byte is read, because a put is also a repair."""
        if not target.is_dir():
            return False
        digest = f"sha256:{target.name}"
        if (target / "tree").exists() != (like / "tree").exists() and (target / "content").exists() != (like / "content").exists():
            raise errors.Damaged(f"{digest} is stored as another kind (file or folder); change the content by one byte to store both")
        try:
            self.verify(digest)
        except errors.Damaged:
            return False
        return True

    def _replace(self, staged: Path, target: Path) -> None:
        if self._whole(target, like=staged):  # another process was faster
            return
        evidence = self.root / ".damaged"
        evidence.mkdir(exist_ok=True)
        target.chmod(0o700)
        os.rename(target, Path(tempfile.mkdtemp(dir=evidence, prefix=f"{target.name[:12]}-")) / "object")
        os.rename(staged, target)

    def _expected(self, digest: str) -> dict[str, Entry]:
        """The required content of the object's folder, by name; also detects anything else in it."""
        folder = self._folder(digest)
        if not (folder / "tree").is_dir() and not (folder / "listing.json").exists():
            wanted = {"content": Entry(path="content", size=-1, sha256=digest.removeprefix("sha256:"))}
            extra = {"stamps.json"}
        else:
            wanted = {f"tree/{e.path}": e for e in self.listing(digest).entries}
            extra = {"stamps.json", "listing.json"}
        found = _everything(folder)
        folders = {"/".join(n.split("/")[:i]) for n in wanted for i in range(1, n.count("/") + 1)}
        for name in sorted(wanted.keys() - found):
            raise _damaged(digest, name, expected=f"sha256:{wanted[name].sha256}", found="no file")
        for name in sorted(found - wanted.keys() - folders - extra):
            raise _damaged(digest, name, expected="no file", found="a file or folder")
        return wanted

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise errors.Unavailable(
                f"cannot store into {str(self.root)!r}: {error}; check free space and permissions there, then try again"
            ) from error


def _copy(source: BinaryIO, target: Path, *, name: str) -> Entry:
    size, hexdigest = system_files.copy(source, target)
    with target.open("rb") as copied:
        formats.check_content(copied, name=name)
    return Entry(path=name, size=size, sha256=hexdigest)


def _verify_file(path: Path, entry: Entry, *, digest: str) -> None:
    try:
        found = digest_file(path)
    except errors.NotAllowed:
        found = "a link or a device"
    if found != f"sha256:{entry.sha256}":
        raise _damaged(
            digest, path.name if entry.path == "content" else f"tree/{entry.path}", expected=f"sha256:{entry.sha256}", found=found
        )


def _everything(folder: Path) -> set[str]:
    return {str(Path(below, name).relative_to(folder)) for below, dirs, files in os.walk(folder) for name in dirs + files}


def _remove_stale(parent: Path, fresh: Path) -> None:
    now = fresh.stat().st_mtime  # the disk's own clock, so that a wrong system clock removes nothing
    for other in parent.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if now - other.stat().st_mtime > _STALE_S:
                system_files.discard(other)


def _damaged(digest: str, name: str, *, expected: str, found: str) -> errors.Damaged:
    return errors.Damaged(
        f"{name!r} of stored object {digest} is damaged: expected {expected}, found {found};"
        " build the part again or import its bundle again, which replaces the object"
    )

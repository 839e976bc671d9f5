"""A bundle with all its bytes in one signed file, `NAME.lastgood.tar`, out of one store and into another.

    manifest.json                the bundle
    provenance.json              where it came from
    signature.json               Ed25519 over the digests of both (DSSE), with the signer's public key
    listings/sha256/<hex>        one for each part that is a folder
    blobs/sha256/<hex>           every file's bytes, once each, sorted

A bundle's config part contains code that a worker runs, so a file is only accepted from a signer that was named
beforehand. Nothing is ever extracted by the names in the archive: members are accepted in this order only, under
headers that are byte for byte the ones written here, and are stored under their digest. A plain `tar tf` reads the file.

What does not belong here: the ledger row of an imported bundle (`release.register` writes it).
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from lastgood import errors
from lastgood.bundle import formats
from lastgood.bundle import manifest as bundle_manifest
from lastgood.bundle.store import Listing, Store, parse_listing
from lastgood.system import files, plain, signing, yaml_errors
from lastgood.system.failpoints import failpoint

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

KIND = "application/vnd.lastgood.bundle.v1+json"
MAX_BYTES = (8 << 30) - 1
"""Maximum size of a member and of all members together: the limit of the plain tar format's size field."""
MAX_MEMBERS = 20_000

_MAX_TEXT = plain.MAX_BYTES
_BLOCK = 512
_CHUNK = 1 << 20
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}


class BundleRow(Protocol):
    """A bundle and its provenance; the ledger's bundle row is one."""

    @property
    def bundle(self) -> bundle_manifest.Bundle:
        """The bundle."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """JSON facts about how it was built."""


def export(bundle_row: BundleRow, *, store: Store, keys: Path, out: Path) -> Path:
    """Write *out*, replacing it atomically; the same bundle, provenance and key give the same bytes.

    Raises Damaged or NotFound if a stored byte is not as recorded, NotAllowed past 8 GiB or 20,000 members.
    """
    content = _contents(bundle_row.bundle, store)
    texts = _texts(bundle_row, keys)
    total = sum(map(len, texts.values())) + sum(size for size, _ in content.values())
    if total > MAX_BYTES or len(texts) + len(content) > MAX_MEMBERS:
        raise errors.NotAllowed(
            f"the bundle has {total} bytes in {len(content)} files, more than a bundle file may hold; copy the store instead"
        )
    try:
        _write_archive(out, texts, content)
    except OSError as error:
        raise errors.Unavailable(f"cannot write {str(out)!r}: {error}; check free space and permissions there, then try again") from error
    return out


def import_(file: Path, *, store: Store, keys: Path, trust: frozenset[str]) -> tuple[bundle_manifest.Bundle, dict[str, Any]]:
    """Import a bundle file into *store*; returns the bundle and its provenance, for the caller to register.

    The signer must be our own key or one whose fingerprint is in *trust* (`sha256:<hex>`, prefix optional). Nothing is
    stored before every byte has been checked. Raises NotAllowed for an unsigned, unknown or hostile file, Damaged for one
    that is truncated or altered, UsageError for a compressed one, Unavailable if the disk fails.
    """
    trusted = {f"sha256:{t.strip().lower().removeprefix('sha256:')}" for t in trust} | _own(keys)
    try:
        with formats.open_regular(file) as opened, store.staging() as staging:
            reader = _Reader(opened)
            bundle, provenance = _read_head(reader, trusted)
            trees = _read_listings(reader, bundle)
            _read_blobs(reader, staging, _wanted(bundle, trees))
            reader.finish()
            _store(bundle, trees, staging, store)
    except OSError as error:
        raise errors.Unavailable(f"cannot import {str(file)!r}: {error}; check free space and permissions, then try again") from error
    failpoint("transfer.before_register")
    return bundle, provenance


# --- writing -----------------------------------------------------------------------------------


def _texts(row: BundleRow, keys: Path) -> dict[str, bytes]:
    manifest = bundle_manifest.canonical(row.bundle.manifest())
    provenance = bundle_manifest.canonical(dict(row.provenance))
    statement = _statement(manifest, provenance)
    private = signing.load_private(keys)
    public = private.public_key()
    signature = {
        "payloadType": KIND,
        "payload": _base64(statement),
        "signatures": [{"keyid": signing.public_fingerprint(public), "sig": _base64(signing.sign(private, statement, kind=KIND))}],
        "publicKey": _base64(public.public_bytes_raw()),
    }
    return {"manifest.json": manifest, "provenance.json": provenance, "signature.json": bundle_manifest.canonical(signature)}


def _statement(manifest: bytes, provenance: bytes) -> bytes:
    return bundle_manifest.canonical({"manifest": bundle_manifest.sha256(manifest), "provenance": bundle_manifest.sha256(provenance)})


def _contents(bundle: bundle_manifest.Bundle, store: Store) -> dict[str, tuple[int, Path]]:
    """Size and source of every member after the texts, in the order of the archive: listings, then blobs, each sorted."""
    listings: dict[str, tuple[int, Path]] = {}
    blobs: dict[str, tuple[int, Path]] = {}
    for part in bundle.parts.values():
        path = store.path(part.digest)
        if store.stored(part.digest).kind == "file":
            blobs[f"blobs/sha256/{_hex(part.digest)}"] = part.size, path
            continue
        listing = store.listing(part.digest)
        listings[f"listings/sha256/{_hex(part.digest)}"] = len(listing.canonical()), path.parent / "listing.json"
        blobs |= {f"blobs/sha256/{e.sha256}": (e.size, path / e.path) for e in listing.entries}
    return dict(sorted(listings.items())) | dict(sorted(blobs.items()))


def _write_archive(out: Path, texts: Mapping[str, bytes], content: Mapping[str, tuple[int, Path]]) -> None:
    handle, name = tempfile.mkstemp(dir=out.absolute().parent, prefix=f".{out.name}.")
    try:
        with os.fdopen(handle, "wb") as archive:
            for member, data in texts.items():
                archive.write(_header(member, len(data)) + data + _padding(len(data)))
            for member, (size, path) in content.items():
                archive.write(_header(member, size))
                _append(archive, member, size, path)
                archive.write(_padding(size))
            archive.write(bytes(2 * _BLOCK))
            archive.flush()
            os.fsync(handle)
        os.replace(name, out)
        files.sync(out.absolute().parent)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _append(archive: BinaryIO, member: str, size: int, path: Path) -> None:
    digest = hashlib.sha256()
    left = size
    with formats.open_regular(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            archive.write(chunk)
            left -= len(chunk)
    if left or digest.hexdigest() != member.rpartition("/")[2]:
        raise errors.Damaged(f"{str(path)!r} does not match what was stored; check with 'lastgood verify', then build the bundle again")


def _header(name: str, size: int) -> bytes:
    """The one ustar header that a member of this name and size can have: no owner, mode 0644, no time."""
    fields = (name.encode().ljust(100, b"\0"), b"0000644\0", b"0000000\0", b"0000000\0", b"%011o\0" % size, b"00000000000\0")
    head = b"".join(fields)
    tail = (b"0" + bytes(100) + b"ustar\x0000").ljust(_BLOCK - len(head) - 8, b"\0")
    return head + b"%06o\0 " % (sum(head) + 8 * 32 + sum(tail)) + tail


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


# --- reading -----------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class _Reader:
    """The archive from front to back; the caller names every expected member, the file none."""

    file: BinaryIO
    total: int = 0
    members: int = 0

    def member(self, name: str) -> int:
        """Move to the next member, which must be *name*; returns its size. Call `text` or `blob` next."""
        block = self._exactly(_BLOCK)
        for magic, called in _COMPRESSED.items():
            if self.members == 0 and block.startswith(magic):
                raise errors.UsageError(f"the file is {called}-compressed; unpack it first, a bundle file is a plain tar")
        digits = block[124:135]
        size = int(digits, 8) if len(digits) == 11 and set(digits) <= set(b"01234567") else 0
        if block != _header(name, size):
            what = "not a bundle file" if self.members == 0 else "not a file as 'bundle export' writes it"
            raise errors.NotAllowed(
                f"this is {what}: at byte {self.file.tell() - _BLOCK} the header of {name!r} was expected, but something else was found; "
                "name a file that 'lastgood bundle export' wrote, or export the bundle again"
            )
        self.total += size
        self.members += 1
        if self.total > MAX_BYTES or self.members > MAX_MEMBERS:
            raise errors.NotAllowed(f"the file declares more than {MAX_BYTES} bytes or {MAX_MEMBERS} members; do not import it")
        return size

    def text(self, name: str) -> bytes:
        """The bytes of the next member, which must be *name* and small."""
        size = self.member(name)
        if size > _MAX_TEXT:
            raise errors.NotAllowed(f"{name!r} declares {size} bytes, more than {_MAX_TEXT}; do not import it")
        data = self._exactly(size)
        self._skip_padding(size)
        return data

    def blob(self, name: str, *, size: int, target: Path) -> None:
        """Copy the next member, which must be *name* with *size* bytes and the digest in its name, to the new file *target*."""
        if self.member(name) != size:
            raise errors.Damaged(f"{name!r} does not have the {size} bytes that the manifest states; export the bundle again")
        digest = hashlib.sha256()
        left = size
        with target.open("xb") as out:
            while left:
                chunk = self._exactly(min(left, _CHUNK))
                digest.update(chunk)
                out.write(chunk)
                left -= len(chunk)
        if digest.hexdigest() != name.rpartition("/")[2]:
            raise errors.Damaged(f"{name!r} has the digest {digest.hexdigest()}, not the expected one; export or copy the file again")
        self._skip_padding(size)

    def finish(self) -> None:
        """The two empty blocks and the end of the file."""
        if self._exactly(2 * _BLOCK) != bytes(2 * _BLOCK) or self.file.read(1):
            raise errors.NotAllowed("the file continues after its last member; export the bundle again")

    def _exactly(self, size: int) -> bytes:
        data = self.file.read(size)
        if len(data) != size:
            raise errors.Damaged("the file ends too early; copy or export it again")
        return data

    def _skip_padding(self, size: int) -> None:
        if self._exactly(-size % _BLOCK).strip(b"\0"):
            raise errors.NotAllowed("there are extra bytes between two members; export the bundle again")


def _read_head(reader: _Reader, trusted: set[str]) -> tuple[bundle_manifest.Bundle, dict[str, Any]]:
    manifest, provenance, signature = (reader.text(n) for n in ("manifest.json", "provenance.json", "signature.json"))
    _check_signature(signature, _statement(manifest, provenance), trusted)
    try:
        bundle, facts = bundle_manifest.from_manifest(yaml_errors.check_json(manifest)), yaml_errors.check_json(provenance)
    except (ValueError, RecursionError) as error:
        raise errors.Damaged(f"the manifest or the provenance does not parse: {error}; export the bundle again") from error
    if bundle_manifest.canonical(bundle.manifest()) != manifest or not isinstance(facts, dict):
        raise errors.Damaged("the manifest or the provenance is not in canonical form; export the bundle again")
    return bundle, facts


def _check_signature(data: bytes, statement: bytes, trusted: set[str]) -> None:
    key, signature, payload = _parse_signature(data)
    signer = signing.public_fingerprint(key)
    if signer not in trusted:
        raise errors.NotAllowed(f"the file is signed by {signer}, which is not trusted here; if you know this signer, add --trust {signer}")
    if not signing.verify(key, signature, payload, kind=KIND):
        raise errors.NotAllowed(f"the signature of {signer} is invalid; get the file again from its signer")
    if payload != statement:
        raise errors.NotAllowed("the signature is for another manifest or provenance; get the file again from its signer")


def _parse_signature(data: bytes) -> tuple[Ed25519PublicKey, bytes, bytes]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        envelope = yaml_errors.check_json(data)
        (entry,) = envelope["signatures"]
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(envelope["publicKey"], validate=True))
        payload, signature = (base64.b64decode(text, validate=True) for text in (envelope["payload"], entry["sig"]))
        if envelope["payloadType"] != KIND:
            raise ValueError("it signs something else")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise errors.NotAllowed(
            f"the file is not signed as a bundle: {type(error).__name__} in 'signature.json'; export it with a 'lastgood' that holds a signing key"
        ) from error
    return key, signature, payload


def _read_listings(reader: _Reader, bundle: bundle_manifest.Bundle) -> dict[str, Listing]:
    """The listings by digest. A part is a folder if its listing is here, which the part's size must confirm."""
    trees: dict[str, Listing] = {}
    for digest, size in sorted({p.digest: p.size for p in bundle.parts.values()}.items()):
        if not _next_is(reader, f"listings/sha256/{_hex(digest)}"):
            continue
        data = reader.text(f"listings/sha256/{_hex(digest)}")
        if bundle_manifest.sha256(data) != digest:
            raise errors.Damaged(f"the listing of {digest} does not hash to that digest; copy or export the file again")
        trees[digest] = parse_listing(data)
        if trees[digest].size != size:
            raise errors.Damaged(
                f"the listing of {digest} does not have the {size} bytes that the manifest states; export the bundle again"
            )
    return trees


def _next_is(reader: _Reader, name: str) -> bool:
    place = reader.file.tell()
    block = reader.file.read(_BLOCK)
    reader.file.seek(place)
    return block[:100].rstrip(b"\0") == name.encode()


def _wanted(bundle: bundle_manifest.Bundle, trees: Mapping[str, Listing]) -> dict[str, int]:
    """Bytes by hex digest of every blob the bundle needs, sorted."""
    wanted = {_hex(p.digest): p.size for p in bundle.parts.values() if p.digest not in trees}
    for listing in trees.values():
        for entry in listing.entries:
            if wanted.setdefault(entry.sha256, entry.size) != entry.size:
                raise errors.Damaged(f"two listings give {entry.sha256} different sizes; export the bundle again")
    return dict(sorted(wanted.items()))


def _read_blobs(reader: _Reader, staging: Path, wanted: Mapping[str, int]) -> None:
    (staging / "blobs").mkdir()
    for name, size in wanted.items():
        reader.blob(f"blobs/sha256/{name}", size=size, target=staging / "blobs" / name)


def _store(bundle: bundle_manifest.Bundle, trees: Mapping[str, Listing], staging: Path, store: Store) -> None:
    sources = {part.digest: staging / "blobs" / _hex(part.digest) for part in bundle.parts.values()}
    for digest, listing in trees.items():
        sources[digest] = staging / "trees" / _hex(digest)
        _lay_out(listing, staging / "blobs", sources[digest])
    for source in sources.values():
        store.check(source)  # all of them before the first is stored
    stored = {digest: store.put(source) for digest, source in sources.items()}
    for part in bundle.parts.values():
        found = stored[part.digest]
        if (found.digest, found.size) != (part.digest, part.size):
            raise errors.Damaged(
                f"part {part.name!r} has {found.size} bytes of {found.digest}, not what the manifest states; export it again"
            )


def _lay_out(listing: Listing, blobs: Path, folder: Path) -> None:
    for entry in listing.entries:
        target = folder / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(blobs / entry.sha256, target)  # both are private to this import; `put` copies


def _own(keys: Path) -> set[str]:
    try:
        return {signing.public_fingerprint(signing.load_public(keys))}
    except errors.NotFound:
        return set()


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()

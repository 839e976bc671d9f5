"""Archives made to escape, to swell or to confuse are refused before anything is visible."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import tarfile

import pytest

from lastgood import errors
from lastgood.bundle import archive as bundle_archive
from lastgood.bundle import manifest, store
from lastgood.system import signing
from tests.transfer.conftest import Row


class Parts:
    """Pieces of a good, signed file, to be put together badly."""

    def __init__(self, row, home):
        self.texts = bundle_archive._texts(row, home.keys)
        self.content = {name: path.read_bytes() for name, (_, path) in bundle_archive._contents(row.bundle, home.store).items()}

    def head(self):
        return b"".join(member(name, data) for name, data in self.texts.items())

    def body(self):
        return b"".join(member(name, data) for name, data in self.content.items())


def member(name, data):
    """One member as lastgood writes it."""
    return bundle_archive._header(name, len(data)) + data + bundle_archive._padding(len(data))


END = bytes(1024)


@pytest.fixture
def parts(row, ours):
    """Signed by a signer the importer trusts, so that only the later checks stand in the way."""
    return Parts(row, ours)


@pytest.fixture
def refused(tmp_path, ours, theirs):
    """Write the bytes, import them, expect a refusal and an untouched store and disk."""

    def check(data, *kinds):
        file = tmp_path / "hostile.tar"
        file.write_bytes(data)
        before = {p for p in tmp_path.rglob("*") if not p.is_dir()}
        with pytest.raises(kinds or (errors.NotAllowed, errors.Damaged)) as caught:
            bundle_archive.import_(file, store=theirs.store, keys=theirs.keys, trust=frozenset({ours.fingerprint}))
        assert list(theirs.store.digests()) == []
        assert {p for p in tmp_path.rglob("*") if not p.is_dir()} == before
        return str(caught.value)

    return check


def test_the_pieces_are_good(tmp_path, parts, ours, theirs, row):
    """Put together as they should be, the same pieces are accepted; so the refusals below are for their own reasons."""
    (tmp_path / "good.tar").write_bytes(parts.head() + parts.body() + END)
    bundle_, _ = bundle_archive.import_(tmp_path / "good.tar", store=theirs.store, keys=theirs.keys, trust=frozenset({ours.fingerprint}))
    assert bundle_ == row.bundle


NAMES = ["../../evil", "/evil", "blobs/sha256/../../evil", "blobs/sha256/" + "0" * 64, "manifest.json", "", "blobs\\sha256\\x", "a\0b"]


@pytest.mark.parametrize("name", NAMES)
def test_hostile_and_extra_names(parts, refused, name):
    """A member by any other name than the next expected one is refused, before, among and after the good ones."""
    evil = member(name, b"evil")
    refused(evil + parts.head() + parts.body() + END)
    refused(parts.head() + evil + parts.body() + END)
    refused(parts.head() + parts.body() + evil + END)


def test_duplicate_missing_and_reordered_members(parts, refused):
    """Each blob stands once, in order; a second, a missing or a moved one is refused."""
    blobs = [member(n, d) for n, d in parts.content.items()]
    for order in ([blobs[0], *blobs], [*blobs, blobs[-1]], blobs[1:], blobs[:-1], blobs[::-1], [blobs[0], *blobs[:0:-1]], []):
        refused(parts.head() + b"".join(order) + END)


def test_wrong_bytes_under_a_digest(parts, refused):
    """Blobs and listings whose bytes are not those of their name are Damaged."""
    for name, data in parts.content.items():
        if data:
            swapped = bytes([data[0] ^ 1]) + data[1:]
            content = {**parts.content, name: swapped}
            refused(parts.head() + b"".join(member(n, d) for n, d in content.items()) + END, errors.Damaged)


def test_after_the_end(parts, refused):
    """Bytes after the end, a missing end, and bytes hidden in the padding are refused."""
    good = parts.head() + parts.body()
    for tail in (END + b"x", END + bytes(512), bytes(512), b""):
        refused(good + tail)
    name, data = next((n, d) for n, d in parts.content.items() if len(d) % 512)
    refused(good.replace(member(name, data), member(name, data)[:-1] + b"!") + END)


def _typed(kind, *, name="manifest.json", linkname="", size=0, pax=None):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, linkname, size
        info.pax_headers = pax or {}
        archive.addfile(info, io.BytesIO(bytes(size)))
    return out.getvalue()


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.DIRTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.GNUTYPE_SPARSE,
        tarfile.CONTTYPE,
    ],
)
def test_only_plain_members(parts, refused, kind):
    """Links, folders, devices, pipes and sparse members are refused wherever they stand, under any name."""
    for name in ("manifest.json", "../evil", next(iter(parts.content))):
        evil = _typed(kind, name=name, linkname="/etc/passwd")[:512]
        refused(evil + parts.head() + parts.body() + END)
        refused(parts.head() + evil + parts.body() + END)


def test_long_names_and_pax_headers(parts, refused):
    """Extension headers, which rename or resize the member that follows, are refused."""
    name = next(iter(parts.content))
    for evil in (
        _typed(tarfile.REGTYPE, name="a/" * 200 + "evil"),
        _typed(tarfile.REGTYPE, name=name, pax={"path": "../../evil"}),
        _typed(tarfile.REGTYPE, name=name, pax={"size": "99999999999"}),
        _typed(tarfile.REGTYPE, name=name, pax={"GNU.sparse.major": "1", "GNU.sparse.name": "../evil"}),
    ):
        refused(parts.head() + evil[:-1024] + parts.body() + END)
        refused(evil[:-1024] + parts.head() + parts.body() + END)


def test_headers_by_another_writer(parts, refused, tmp_path):
    """The right names and bytes under headers with an owner, a time or an odd checksum are refused all the same."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in {**parts.texts, **parts.content}.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1
            archive.addfile(info, io.BytesIO(data))
    refused(out.getvalue())


@pytest.mark.parametrize("squeeze", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_files_are_refused_clearly(parts, refused, squeeze):
    """A compressed file is a usage error that says what to do; nothing is decompressed."""
    assert "unpack it first" in refused(squeeze(parts.head() + parts.body() + END), errors.UsageError)


def test_declared_sizes_are_limited(parts, refused):
    """Sizes are believed only within limits, and never allocated before the bytes are there."""
    huge = bundle_archive._header("manifest.json", bundle_archive.MAX_BYTES)
    assert "declares" in refused(huge + bytes(512), errors.NotAllowed)
    refused(bundle_archive._header("manifest.json", 1 << 20) + bytes(512), errors.Damaged)
    name = next(n for n in parts.content if n.startswith("blobs"))
    refused(
        parts.head()
        + b"".join(member(n, d) for n, d in parts.content.items() if "listings" in n)
        + bundle_archive._header(name, bundle_archive.MAX_BYTES)
    )


def test_empty_and_foreign_files(refused):
    """No bytes, zeros, text and a random kilobyte are not bundle files."""
    for data in (b"", END, b"hello" * 300, os.urandom(2048)):
        refused(data)


def _signed(ours, parts_):
    row = Row(bundle=manifest.bundle_of("flights", *parts_), provenance={})
    return b"".join(member(n, d) for n, d in bundle_archive._texts(row, ours.keys).items())


def _part(name, data, size=None):
    return manifest.Part(
        name=name, digest=manifest.sha256(data), size=len(data) if size is None else size, media_type="x/y", uri="store:x", meta={}
    )


EVIL_LISTINGS = [
    [("../evil", 4)],
    [("/evil", 4)],
    [("a/../../evil", 4)],
    [("A", 4), ("a", 4)],
    [("a", 4), ("a/b", 4)],
    [("a\\b", 4)],
    [("-rf", 4)],
    [("x\n", 4)],
    [("\u0430", 4)],
    [("/".join("d" * 40), 4)],
    [("model.pkl", 4)],
]


@pytest.mark.parametrize("rows", EVIL_LISTINGS)
def test_hostile_listings_of_a_trusted_signer(ours, refused, rows):
    """Even under a good signature, a listing may not place files outside or over each other."""
    listing = store.Listing(tuple(store.Entry(path=p, size=s, sha256=manifest.sha256(b"evil")[7:]) for p, s in rows)).canonical()
    part = manifest.Part(name="config", digest=manifest.sha256(listing), size=4 * len(rows), media_type="x/y", uri="store:x", meta={})
    blob = manifest.sha256(b"evil")[7:]
    body = member(f"listings/sha256/{part.digest[7:]}", listing) + member(f"blobs/sha256/{blob}", b"evil")
    refused(_signed(ours, [part]) + body + END, errors.NotAllowed)


@pytest.mark.parametrize("text", [b"{}", b"[1]", b'[{"path":"a","sha256":"x","size":1}]', b"[" * 100_000, b"[]", b"\xff"])
def test_malformed_listings(ours, refused, text):
    """A listing that is no listing is Damaged (or empty, and then refused as a part)."""
    part = manifest.Part(name="config", digest=manifest.sha256(text), size=0, media_type="x/y", uri="store:x", meta={})
    refused(_signed(ours, [part]) + member(f"listings/sha256/{part.digest[7:]}", text) + END, errors.Damaged, errors.UsageError)


@pytest.mark.parametrize("text", [b"{}", b"[]", b"nonsense", b"[" * 100_000])
def test_malformed_manifests(ours, row, refused, text):
    """A signed manifest that is none is Damaged."""
    provenance = b"{}"
    texts = bundle_archive._texts(Row(bundle=row.bundle, provenance={}), ours.keys)
    statement = bundle_archive._statement(text, provenance)
    envelope = json.loads(texts["signature.json"])
    envelope["payload"] = base64.b64encode(statement).decode()
    envelope["signatures"][0]["sig"] = base64.b64encode(
        signing.sign(signing.load_private(ours.keys), statement, kind=bundle_archive.KIND)
    ).decode()
    head = member("manifest.json", text) + member("provenance.json", provenance) + member("signature.json", json.dumps(envelope).encode())
    refused(head + END, errors.Damaged)


def test_pickles_of_a_trusted_signer(ours, refused, tmp_path):
    """A pickle in one part keeps every other part out as well, and is not loaded."""
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    good, evil = b"a,b\n", pickle.dumps(Evil())
    parts = [_part("data", good), _part("model", evil)]
    blobs = sorted((manifest.sha256(d)[7:], d) for d in (good, evil))
    refused(_signed(ours, parts) + b"".join(member(f"blobs/sha256/{h}", d) for h, d in blobs) + END, errors.NotAllowed)
    assert not canary.exists()


def test_sizes_must_agree_with_the_manifest(ours, refused):
    """A manifest that lies about a size is refused."""
    data = b"a,b\n"
    for size in (0, 3, 5):
        body = member(f"blobs/sha256/{manifest.sha256(data)[7:]}", data)
        refused(_signed(ours, [_part("data", data, size=size)]) + body + END, errors.Damaged)

"""Every way in which stored bytes can go wrong is found, named and repaired by putting the content again."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from lastgood import errors
from lastgood.bundle import manifest
from lastgood.bundle import store as bundle_store


@pytest.fixture
def store(tmp_path):
    """A store with a file, a folder, and a bundle of both."""
    return bundle_store.Store(tmp_path / "store")


@pytest.fixture
def sources(tmp_path):
    """A file and a folder to put."""
    rng = random.Random(3)
    (tmp_path / "weights.ubj").write_bytes(rng.randbytes(30_000))
    for n in range(12):
        path = tmp_path / "index" / f"part={n % 3}" / f"{n}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randrange(0, 4000)))
    return tmp_path / "weights.ubj", tmp_path / "index"


@pytest.fixture
def both(store, sources):
    """The bundle of both."""
    model, index = (store.put(source) for source in sources)
    return manifest.bundle_of(
        "flights",
        bundle_store.part(model, name="model", media_type="x/y", meta={}),
        bundle_store.part(index, name="index", media_type="x/y", meta={}),
    )


def _content(store):
    return sorted(p for p in (store.root / "sha256").rglob("*") if p.is_file() and p.name != "stamps.json")


def _change(path, rng):
    """One random fault at *path*; how to undo it."""
    data, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.parent.chmod(0o755)
    path.chmod(0o644)
    kind = rng.choice(["flip", "flip", "flip", "cut", "delete", "grow", "link", "swap"])
    changed = bytearray(data)
    if kind == "flip" and data:
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind in ("cut", "swap") and len(data) > 1:
        changed = changed[: rng.randrange(len(data))] if kind == "cut" else bytearray(len(data))
    else:
        changed += b"\0"
    path.unlink() if kind in ("delete", "link") else path.write_bytes(changed)
    if kind == "link":
        path.symlink_to("/dev/null")
    elif kind != "delete":
        os.utime(path, ns=times)  # a fault of the disk leaves no trace in the times, and an attacker sets them back

    def undo():
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        path.chmod(0o444)

    return kind, undo


def test_every_fault_is_found(store, both):
    """240 random flips, cuts, deletions, additions and replacements: all found, by both checks, each naming the digest."""
    rng = random.Random(11)
    store.verify_bundle(both)
    for _ in range(int(240 * float(os.environ.get("LASTGOOD_TEST_BUDGET", "1")))):
        path = rng.choice(_content(store))
        kind, undo = _change(path, rng)
        hexdigest = path.relative_to(store.root / "sha256").parts[0]
        for deep in (True, False):
            with pytest.raises(errors.Damaged) as caught:
                store.verify_bundle(both, deep=deep)
            assert hexdigest in str(caught.value), (kind, path)
            assert "again" in str(caught.value)
        undo()
        store.verify_bundle(both)


def test_additions_are_found(store, both):
    """A file, a folder or a link that was added to an object is damage too."""
    top = store.path(both.parts["index"].digest)
    for folder in (top, top.parent, top / "part=1", store.path(both.parts["model"].digest).parent):
        folder.chmod(0o755)
        for add, remove in ((Path.touch, Path.unlink), (Path.mkdir, Path.rmdir), (lambda p: p.symlink_to("/etc"), Path.unlink)):
            add(folder / "extra")
            for deep in (True, False):
                with pytest.raises(errors.Damaged, match="extra"):
                    store.verify_bundle(both, deep=deep)
            remove(folder / "extra")
        store.verify_bundle(both)


def test_lost_folders_are_found(store, both, tmp_path):
    """An object without its tree, its listing or its content is Damaged; without its folder it is NotFound."""
    index, model = (store.path(both.parts[n].digest) for n in ("index", "model"))
    for lost in (index, index.parent / "listing.json", model):
        lost.parent.chmod(0o755)
        lost.rename(tmp_path / "away")
        for deep in (True, False):
            with pytest.raises(errors.Damaged):
                store.verify_bundle(both, deep=deep)
        (tmp_path / "away").rename(lost)
        store.verify_bundle(both)
    index.parent.rename(tmp_path / "away")
    with pytest.raises(errors.NotFound):
        store.verify_bundle(both)


def test_message_says_what_was_expected_and_found(store, both):
    """The message has file, object, expected and found digest, and the remedy."""
    path = store.path(both.parts["index"].digest) / "part=0" / "0.bin"
    expected = bundle_store.digest_file(path)
    path.chmod(0o644)
    path.write_bytes(b"other")
    with pytest.raises(errors.Damaged) as caught:
        store.verify(both.parts["index"].digest)
    for word in ("tree/part=0/0.bin", both.parts["index"].digest, expected, manifest.sha256(b"other"), "import its bundle again"):
        assert word in str(caught.value)


def test_putting_again_repairs(store, both, sources):
    """After damage of any kind, putting the content again makes the object whole; the damaged one is kept as evidence."""
    rng = random.Random(5)
    for turn in range(1, 13):
        _change(rng.choice(_content(store)), rng)
        for source in sources:
            store.put(source)
        store.verify_bundle(both)
        store.verify_bundle(both, deep=False)
        assert len(list((store.root / ".damaged").iterdir())) == turn


def test_fast_check_reads_no_bytes_of_a_quiet_object(store, both, monkeypatch):
    """Untouched objects pass the fast check without being hashed; a touched but equal one is hashed and passes."""
    hashed = []
    real = bundle_store.digest_file
    monkeypatch.setattr(bundle_store, "digest_file", lambda path: hashed.append(path) or real(path))
    store.verify_bundle(both, deep=False)
    assert hashed == []
    path = store.path(both.parts["model"].digest)
    os.utime(path)
    store.verify_bundle(both, deep=False)
    assert hashed == [path]


def test_lost_or_damaged_stamps_hide_nothing(store, both):
    """Without usable stamps the fast check hashes everything."""
    path = store.path(both.parts["model"].digest)
    stamps = path.parent / "stamps.json"
    stamps.chmod(0o644)
    for text in (b"", b"[]", b"{}", b"\xff", b'{"content": 3}'):
        stamps.write_bytes(text)
        store.verify_bundle(both, deep=False)
    path.chmod(0o644)
    path.write_bytes(bytes(30_000))
    with pytest.raises(errors.Damaged):
        store.verify_bundle(both, deep=False)

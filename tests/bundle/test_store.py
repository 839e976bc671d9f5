"""The store gives back what was put in, once, whole, from any number of processes."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lastgood import errors
from lastgood.bundle import formats, manifest
from lastgood.bundle import store as bundle_store
from lastgood.system import failpoints


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    return bundle_store.Store(tmp_path / "store")


@pytest.fixture
def folder(tmp_path):
    """A small folder with a nested, a repeated and an empty file, and an empty folder."""
    root = tmp_path / "source"
    (root / "code" / "deep").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "service.yaml").write_text("service: flights\n")
    (root / "code" / "__init__.py").write_text("")
    (root / "code" / "deep" / "a.py").write_text("x = 1\n")
    (root / "code" / "b.py").write_text("x = 1\n")
    return root


def test_digest_of_a_file_is_its_sha256(tmp_path, store):
    """The digest is the plain SHA-256 that any other tool prints."""
    (tmp_path / "a.csv").write_bytes(b"a,b\n")
    stored = store.put(tmp_path / "a.csv", allow=bundle_store.DATA_FORMATS)
    assert stored.digest == "sha256:" + hashlib.sha256(b"a,b\n").hexdigest() == bundle_store.digest_file(tmp_path / "a.csv")
    assert (stored.size, stored.kind, stored.uri) == (4, "file", "store:" + stored.digest)
    assert store.path(stored.digest).read_bytes() == b"a,b\n"
    assert store.stored(stored.digest) == stored


def test_digest_of_a_folder_is_that_of_its_listing(folder, store):
    """The digest of a folder is the SHA-256 of the canonical list of path, size and sha256, by path."""
    rows = [
        {"path": str(p.relative_to(folder)), "sha256": hashlib.sha256(p.read_bytes()).hexdigest(), "size": p.stat().st_size}
        for p in folder.rglob("*")
        if p.is_file()
    ]
    text = json.dumps(sorted(rows, key=lambda r: r["path"]), separators=(",", ":"), sort_keys=True).encode()
    stored = store.put(folder, allow=bundle_store.CONFIG_FORMATS)
    assert stored.digest == "sha256:" + hashlib.sha256(text).hexdigest() == bundle_store.digest_tree(folder).digest
    assert (stored.kind, stored.size) == ("tree", sum(r["size"] for r in rows))
    assert bundle_store.parse_listing(text) == bundle_store.digest_tree(folder) == store.listing(stored.digest)
    assert store.stored(stored.digest) == stored
    assert bundle_store.digest_tree(store.path(stored.digest)).digest == stored.digest


def test_put_again_changes_nothing(folder, store):
    """The same content put twice, from another folder at another time, is the same object, untouched."""
    first = store.put(folder)
    stamp = store.path(first.digest).stat().st_mtime_ns
    (folder / "empty").rmdir()
    assert store.put(folder.rename(folder.parent / "elsewhere")) == first
    assert store.path(first.digest).stat().st_mtime_ns == stamp
    assert list(store.digests()) == [first.digest]
    assert list((store.root / ".staging").iterdir()) == []


def test_writing_into_the_source_does_not_reach_the_store(tmp_path, store):
    """The bytes are copied, never linked: editing the source in place leaves the object whole."""
    source = tmp_path / "a.txt"
    source.write_text("one")
    stored = store.put(source)
    with source.open("r+") as file:
        file.write("two")
    store.verify(stored.digest)
    assert store.path(stored.digest).stat().st_nlink == 1


def test_objects_are_read_only(folder, store):
    """Files are 0444 and folders 0555, up to the object's own folder."""
    stored = store.put(folder)
    top = store.path(stored.digest).parent
    for path in (top, *top.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o500 if path.is_dir() else 0o400), path


def test_put_bytes(store):
    """Bytes in memory become the same object as a file of them."""
    stored = store.put_bytes(b'{"a": 1}', name="a.json")
    assert store.path(stored.digest).read_bytes() == b'{"a": 1}'
    store.verify(stored.digest, deep=False)


def test_missing_objects(store):
    """A digest that is not stored is NotFound everywhere; something that is no digest is a usage error."""
    digest = manifest.sha256(b"nowhere")
    assert not store.has(digest)
    assert list(store.digests()) == []
    for ask in (store.path, store.verify, store.stored, store.listing):
        with pytest.raises(errors.NotFound, match=digest):
            ask(digest)
    for bad in ("", "sha256:", "../../etc", "sha256:" + "A" * 64):
        with pytest.raises(errors.UsageError):
            store.has(bad)


def test_empty_parts_are_refused(tmp_path, store):
    """An empty file and a folder without files are no parts."""
    (tmp_path / "a.txt").touch()
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    for source in (tmp_path / "a.txt", tmp_path / "tree"):
        with pytest.raises(errors.UsageError, match=r"needs content"):
            store.put(source)
    with pytest.raises(errors.UsageError):
        store.put_bytes(b"", name="a.txt")


def test_missing_source(tmp_path, store):
    """A source that is not there is NotFound."""
    with pytest.raises(errors.NotFound):
        store.put(tmp_path / "nothing")


def test_allow_lists_decide_by_suffix(tmp_path, store, folder):
    """A part takes only its own formats, for a file and for every file of a folder."""
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(errors.NotAllowed, match=r"\.py"):
        store.put(tmp_path / "a.py", allow=bundle_store.MODEL_FORMATS)
    (folder / "code" / "run.sh").write_text("rm -rf /\n")
    with pytest.raises(errors.NotAllowed, match=r"run\.sh"):
        store.put(folder, allow=bundle_store.CONFIG_FORMATS)
    assert list(store.digests()) == []


def test_file_and_folder_of_one_digest(folder, store, tmp_path):
    """A file that is the listing of a stored folder would have its digest; it is refused, not confused."""
    stored = store.put(folder)
    listing = store.path(stored.digest).parent / "listing.json"
    with pytest.raises(errors.Damaged, match="another kind"):
        store.put_bytes(listing.read_bytes(), name="listing.json")
    store.verify(stored.digest)
    assert store.stored(stored.digest).kind == "tree"


def test_part_and_verify_bundle(folder, store):
    """A bundle of stored parts verifies; one that misstates a size, or lacks a part, does not."""
    stored = store.put(folder)
    part = bundle_store.part(stored, name="config", media_type="x/y", meta={"a": 1})
    assert (part.digest, part.size, part.uri) == (stored.digest, stored.size, stored.uri)
    store.verify_bundle(manifest.bundle_of("flights", part))
    lying = manifest.Part(name="config", digest=part.digest, size=part.size + 1, media_type="x/y", uri=part.uri)
    with pytest.raises(errors.Damaged, match="bytes"):
        store.verify_bundle(manifest.bundle_of("flights", lying))
    missing = manifest.Part(name="data", digest=manifest.sha256(b"no"), size=2, media_type="x/y", uri="store:no")
    with pytest.raises(errors.NotFound):
        store.verify_bundle(manifest.bundle_of("flights", part, missing), deep=False)


def test_left_over_staging_is_removed_after_a_day(store, tmp_path):
    """The next put removes staging folders older than a day, with read-only folders in them, and keeps younger ones."""
    store.put_bytes(b"x", name="x.txt")
    staging = store.root / ".staging"
    for name, age in (("old", 90_000), ("young", 80_000)):
        (staging / name / "object" / "tree").mkdir(parents=True)
        (staging / name / "object" / "tree").chmod(0o555)
        now = (staging / name).stat().st_mtime
        os.utime(staging / name, (now - age, now - age))
    store.put_bytes(b"y", name="y.txt")
    assert [p.name for p in staging.iterdir()] == ["young"]


def _put(arguments):
    store, source = arguments
    return bundle_store.Store(store).put(source).digest


def test_many_processes_put_the_same_content(folder, store):
    """Eight puts of one folder at once all succeed and leave one whole object."""
    with concurrent.futures.ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        digests = list(pool.map(_put, [(store.root, folder)] * 8))
    assert set(digests) == set(store.digests())
    assert len(set(digests)) == 1
    store.verify(digests[0])
    assert list((store.root / ".staging").iterdir()) == []


PUT = "import sys; from pathlib import Path; from lastgood.bundle.store import Store; Store(Path(sys.argv[1])).put(Path(sys.argv[2]))"


@pytest.mark.parametrize(("place", "visible"), [("store.before_rename", False), ("store.after_rename", True)])
def test_kill_during_put(place, visible, folder, store):
    """Killed before the rename nothing is visible, killed after it everything is; putting again succeeds either way."""
    env = {**os.environ, failpoints.VARIABLE: f"{place}=kill"}
    killed = subprocess.run([sys.executable, "-c", PUT, str(store.root), str(folder)], env=env, check=False)
    assert killed.returncode == -signal.SIGKILL
    wanted = bundle_store.digest_tree(folder).digest
    assert list(store.digests()) == ([wanted] if visible else [])
    if visible:
        store.verify(wanted)
        store.verify(wanted, deep=False)
    assert store.put(folder).digest == wanted
    store.verify(wanted)


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("place", ["store.before_rename", "store.after_rename"])
def test_disk_error_during_put(place, error, folder, store):
    """A full or broken disk is Unavailable with its number; nothing half-written is visible and a retry succeeds."""
    with failpoints.armed(f"{place}=raise:{error}"), pytest.raises(errors.Unavailable, match="space"):
        store.put(folder)
    assert len(list(store.digests())) == (place == "store.after_rename")
    for digest in store.digests():
        store.verify(digest)
    store.verify(store.put(folder).digest)
    assert list((store.root / ".staging").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_works_without_root(tmp_path_factory, folder):
    """For a user whom modes do bind: put, put again, verify, repair."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        (Path(name) / "a.txt").write_text("hello")
        (Path(name) / "tree").mkdir()
        (Path(name) / "tree" / "a.txt").write_text("hello")
        pid = os.fork()
        if pid == 0:
            os._exit(_as_nobody(Path(name)))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _as_nobody(base):
    os.setgid(65534)
    os.setuid(65534)
    store = bundle_store.Store(base / "store")
    for source in (base / "a.txt", base / "tree"):
        stored = store.put(source)
        if store.put(source) != stored:
            return 1
        store.verify(stored.digest)
        path = store.path(stored.digest)
        path = path if path.is_file() else path / "a.txt"
        path.chmod(0o644)
        path.write_text("damaged")
        store.put(source)
        store.verify(stored.digest)
    return 0 if not list((base / "store" / ".staging").iterdir()) else 2


def test_limits(tmp_path, monkeypatch):
    """Too many files and too deep folders are refused before they are copied."""
    monkeypatch.setattr(formats, "MAX_FILES", 3)
    many = tmp_path / "many"
    many.mkdir()
    for n in range(4):
        (many / f"{n}.txt").write_text("x")
    deep = tmp_path / "deep"
    (deep / "/".join("d" * 33)).mkdir(parents=True)
    (deep / "/".join("d" * 33) / "a.txt").write_text("x")
    for source in (many, deep):
        with pytest.raises(errors.NotAllowed):
            bundle_store.Store(tmp_path / "store").put(source)

"""A bundle file goes out of one store and into another, whole or not at all."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tarfile

import pytest

from lastgood import errors
from lastgood.bundle import archive as bundle_archive
from lastgood.bundle import manifest
from lastgood.system import failpoints, signing
from tests.transfer.conftest import Row, make_home


@pytest.fixture
def file(tmp_path, ours, row):
    """Our bundle, exported."""
    return bundle_archive.export(row, store=ours.store, keys=ours.keys, out=tmp_path / "b.lastgood.tar")


def _take(file, home, *trust):
    return bundle_archive.import_(file, store=home.store, keys=home.keys, trust=frozenset(trust))


def _nothing_stored(home):
    assert list(home.store.digests()) == []
    staging = home.store.root / ".staging"
    assert not staging.exists() or list(staging.iterdir()) == []


def test_round_trip(file, row, ours, theirs):
    """What arrives in another store is the same bundle with the same bytes and provenance."""
    bundle, provenance = _take(file, theirs, ours.fingerprint)
    assert (bundle, provenance, bundle.id) == (row.bundle, row.provenance, row.bundle.id)
    theirs.store.verify_bundle(bundle)
    for part in bundle.parts.values():
        assert theirs.store.stored(part.digest).size == part.size
    assert (theirs.store.path(bundle.parts["config"].digest) / "code" / "runtime.py").read_text() == "answer = 42\n"


def test_import_twice_and_own_file(file, ours, theirs):
    """Importing again, or importing one's own export, changes nothing and needs no --trust for one's own key."""
    assert _take(file, ours) == _take(file, ours)
    before = list(ours.store.digests())
    _take(file, theirs, ours.fingerprint)
    _take(file, theirs, ours.fingerprint.removeprefix("sha256:").upper())
    assert list(theirs.store.digests()) == before


def test_export_is_deterministic(tmp_path, file, row, ours):
    """The same bundle exported twice gives the same bytes."""
    again = bundle_archive.export(row, store=ours.store, keys=ours.keys, out=tmp_path / "again.tar")
    assert again.read_bytes() == file.read_bytes()


def test_any_tar_reads_it(file):
    """Python's tarfile and the tar command list the members, each blob once, nothing unusual."""
    with tarfile.open(file, "r:") as archive:
        members = archive.getmembers()
    names = [m.name for m in members]
    assert names[:3] == ["manifest.json", "provenance.json", "signature.json"]
    assert all(m.isreg() and m.mtime == 0 for m in members)
    assert len(names) == len(set(names))
    listed = subprocess.run(["tar", "-tf", file], capture_output=True, text=True, check=True)
    assert (listed.stdout.splitlines(), listed.stderr) == (names, "")


def test_two_parts_with_one_content(tmp_path, ours, theirs, row):
    """Parts that share their content travel once and arrive twice."""
    tree = row.bundle.parts["config"]
    twins = manifest.bundle_of("flights", tree, dataclasses.replace(tree, name="prompt"))
    file = bundle_archive.export(Row(bundle=twins, provenance={}), store=ours.store, keys=ours.keys, out=tmp_path / "t.tar")
    assert _take(file, theirs, ours.fingerprint)[0] == twins


def test_unknown_signer_is_refused_with_the_remedy(file, ours, theirs):
    """A stranger's file is refused before anything is stored; the message says how to trust the signer."""
    with pytest.raises(errors.NotAllowed, match=f"--trust {ours.fingerprint}"):
        _take(file, theirs)
    _nothing_stored(theirs)


def test_trusting_somebody_else_does_not_help(file, tmp_path, theirs):
    """Trust is by fingerprint of the very signer."""
    other = make_home(tmp_path / "other")
    with pytest.raises(errors.NotAllowed, match="not trusted"):
        _take(file, theirs, other.fingerprint, "", "sha256:", "*")
    _nothing_stored(theirs)


def test_forged_signer_is_refused(tmp_path, row, ours, theirs):
    """Naming a trusted signer's public key over one's own signature does not pass."""
    texts = bundle_archive._texts(row, theirs.keys)
    envelope = json.loads(texts["signature.json"])
    envelope["publicKey"] = base64.b64encode(signing.load_public(ours.keys).public_bytes_raw()).decode()
    envelope["signatures"][0]["keyid"] = ours.fingerprint
    texts["signature.json"] = json.dumps(envelope).encode()
    bundle_archive._write_archive(tmp_path / "f.tar", texts, bundle_archive._contents(row.bundle, ours.store))
    victim = make_home(tmp_path / "victim")
    with pytest.raises(errors.NotAllowed, match="is invalid"):
        _take(tmp_path / "f.tar", victim, ours.fingerprint)
    _nothing_stored(victim)


@pytest.mark.parametrize("which", ["manifest.json", "provenance.json"])
def test_signature_covers_manifest_and_provenance(tmp_path, row, ours, theirs, which):
    """A valid signature beside another manifest or provenance is refused."""
    other = Row(bundle=row.bundle, provenance={"git": "else"})
    if which == "manifest.json":
        other = Row(bundle=manifest.bundle_of("other", *row.bundle.parts.values()), provenance=row.provenance)
    texts = bundle_archive._texts(row, ours.keys) | {which: bundle_archive._texts(other, ours.keys)[which]}
    bundle_archive._write_archive(tmp_path / "f.tar", texts, bundle_archive._contents(row.bundle, ours.store))
    with pytest.raises(errors.NotAllowed, match="another manifest"):
        _take(tmp_path / "f.tar", theirs, ours.fingerprint)
    _nothing_stored(theirs)


@pytest.mark.parametrize("text", [b"{}", b"null", b"not json", b'{"payloadType":"x","payload":"","signatures":[],"publicKey":""}'])
def test_unsigned_is_refused(tmp_path, row, ours, theirs, text):
    """Without a well-formed signature there is no import, trusted or not."""
    texts = bundle_archive._texts(row, ours.keys) | {"signature.json": text}
    bundle_archive._write_archive(tmp_path / "f.tar", texts, bundle_archive._contents(row.bundle, ours.store))
    with pytest.raises(errors.NotAllowed, match="not signed"):
        _take(tmp_path / "f.tar", theirs, ours.fingerprint)
    _nothing_stored(theirs)


def test_every_flip_and_cut_is_refused(tmp_path, file, ours, theirs):
    """200 random flips, cuts and appended bytes of the file: refused, and nothing is left behind."""
    good, rng = file.read_bytes(), random.Random(7)
    bad = tmp_path / "bad.tar"
    for turn in range(int(200 * float(os.environ.get("LASTGOOD_TEST_BUDGET", "1")))):
        data = bytearray(good)
        if turn % 4 < 2:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif turn % 4 == 2:
            del data[rng.randrange(len(data)) :]
        else:
            data += bytes(rng.randrange(1, 2048)) if turn % 8 == 3 else good
        bad.write_bytes(data)
        with pytest.raises((errors.NotAllowed, errors.Damaged, errors.UsageError)):
            _take(bad, theirs, ours.fingerprint)
    _nothing_stored(theirs)


def test_damaged_store_is_not_exported(tmp_path, row, ours):
    """A flipped byte in the store stops the export; no file is left."""
    path = ours.store.path(row.bundle.parts["model"].digest)
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(errors.Damaged, match="lastgood verify"):
        bundle_archive.export(row, store=ours.store, keys=ours.keys, out=tmp_path / "x.tar")
    assert [p for p in tmp_path.iterdir() if "x.tar" in p.name] == []


def test_missing_folder_for_the_export(tmp_path, row, ours):
    """An output that cannot be written is reported, not half written."""
    with pytest.raises(errors.Unavailable, match="cannot write"):
        bundle_archive.export(row, store=ours.store, keys=ours.keys, out=tmp_path / "no" / "x.tar")


def test_missing_file(tmp_path, ours):
    """A file that is not there is NotFound."""
    with pytest.raises(errors.NotFound):
        _take(tmp_path / "none.tar", ours)


@pytest.mark.parametrize("place", ["store.before_rename", "store.after_rename", "transfer.before_register"])
def test_kill_during_import(place, file, ours, theirs):
    """Killed at any named place, the store holds only whole objects, and the import can be repeated."""
    code = (
        "import sys; from pathlib import Path; from lastgood.bundle import archive as transfer, store as artifacts\n"
        "transfer.import_(Path(sys.argv[1]), store=artifacts.Store(Path(sys.argv[2])), keys=Path(sys.argv[3]), trust=frozenset([sys.argv[4]]))"
    )
    argv = [sys.executable, "-c", code, str(file), str(theirs.store.root), str(theirs.keys), ours.fingerprint]
    killed = subprocess.run(argv, env={**os.environ, failpoints.VARIABLE: f"{place}=kill"}, check=False)
    assert killed.returncode == -signal.SIGKILL
    for digest in theirs.store.digests():
        theirs.store.verify(digest)
    bundle, _ = _take(file, theirs, ours.fingerprint)
    theirs.store.verify_bundle(bundle)


def test_full_disk_during_import(file, ours, theirs):
    """An I/O error is Unavailable (try again), and trying again works."""
    with failpoints.armed("store.before_rename=raise:ENOSPC@2"), pytest.raises(errors.Unavailable, match="space"):
        _take(file, theirs, ours.fingerprint)
    _take(file, theirs, ours.fingerprint)

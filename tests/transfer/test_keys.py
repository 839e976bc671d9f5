"""The signing key: made once, kept private, bound to what it signs."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import subprocess
import sys

import pytest

from lastgood import errors
from lastgood.system import signing


def test_key_is_made_once_and_private(tmp_path):
    """init_keys makes a 0600 key in a 0700 folder and leaves it alone ever after."""
    folder = tmp_path / "keys"
    signing.init_keys(folder)
    before = (folder / signing.PRIVATE).read_bytes()
    signing.init_keys(folder)
    assert (folder / signing.PRIVATE).read_bytes() == before
    assert (folder / signing.PRIVATE).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(p.name for p in folder.iterdir()) == [signing.PRIVATE, signing.PUBLIC]


def _init(folder):
    signing.init_keys(folder)
    return signing.public_fingerprint(signing.load_public(folder)), signing.public_fingerprint(signing.load_private(folder).public_key())


def test_many_processes_agree_on_one_key(tmp_path):
    """Eight processes that initialise at once all end with the same pair."""
    with concurrent.futures.ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        prints = list(pool.map(_init, [tmp_path / "keys"] * 8))
    assert len({p for pair in prints for p in pair}) == 1


def test_interrupted_init_is_completed(tmp_path):
    """A crash between the two halves leaves a key whose public half the next call writes."""
    signing.init_keys(tmp_path)
    wanted = (tmp_path / signing.PUBLIC).read_bytes()
    (tmp_path / signing.PUBLIC).unlink()
    signing.init_keys(tmp_path)
    assert (tmp_path / signing.PUBLIC).read_bytes() == wanted


def test_lost_private_key_is_not_replaced(tmp_path):
    """With only the public half left, init does nothing and signing says what is missing."""
    signing.init_keys(tmp_path)
    (tmp_path / signing.PRIVATE).unlink()
    signing.init_keys(tmp_path)
    with pytest.raises(errors.NotFound, match="backup"):
        signing.load_private(tmp_path)


def test_key_that_others_can_read_is_refused(tmp_path):
    """A private key with mode 0644 is not used."""
    signing.init_keys(tmp_path)
    (tmp_path / signing.PRIVATE).chmod(0o644)
    with pytest.raises(errors.NotAllowed, match="chmod 600"):
        signing.load_private(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_damaged_keys_are_named(tmp_path, damage):
    """Bytes that are no key are Damaged, for both halves."""
    signing.init_keys(tmp_path)
    for name, load in ((signing.PRIVATE, signing.load_private), (signing.PUBLIC, signing.load_public)):
        (tmp_path / name).write_bytes(damage)
        with pytest.raises(errors.Damaged, match=name):
            load(tmp_path)


def test_signature_binds_payload_and_kind(tmp_path):
    """A signature fits its payload, kind and key, and nothing else."""
    signing.init_keys(tmp_path / "a")
    signing.init_keys(tmp_path / "b")
    key = signing.load_private(tmp_path / "a")
    signature = signing.sign(key, b"head", kind="audit")
    assert signing.verify(signing.load_public(tmp_path / "a"), signature, b"head", kind="audit")
    assert not signing.verify(signing.load_public(tmp_path / "a"), signature, b"tail", kind="audit")
    assert not signing.verify(signing.load_public(tmp_path / "a"), signature, b"head", kind="bundle")
    assert not signing.verify(signing.load_public(tmp_path / "b"), signature, b"head", kind="audit")


def test_encoding_is_the_published_one():
    """The example of the DSSE protocol text comes out byte for byte."""
    assert signing.encode(b"hello world", kind="http://example.com/HelloWorld") == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_existing_key_loads_no_cryptography(tmp_path):
    """init_keys on the emergency path imports nothing heavy once there is a key."""
    signing.init_keys(tmp_path)
    code = f"import sys; from pathlib import Path; from lastgood.system import signing as keys; keys.init_keys(Path({str(tmp_path)!r})); print('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"

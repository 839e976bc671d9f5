"""The one signing key of this installation: it signs audit checkpoints and exported bundles.

    <home>/keys/audit.key    Ed25519 private key, PEM PKCS#8, mode 0600, made once
    <home>/keys/audit.pub    its public half, PEM

Signatures are over the DSSE pre-authentication encoding, which binds the kind of payload, so that a signed
checkpoint can never be passed off as a signed bundle.

What does not belong here: what is signed (`ledger.audit`, `bundle.archive`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lastgood import errors
from lastgood.system import files

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PRIVATE = "audit.key"
PUBLIC = "audit.pub"


def init_keys(folder: Path) -> None:
    """Create the key pair if there is none; any number of processes may do so at once and agree on one.

    When there is one this costs one look-up and loads no cryptography. A private key that got lost is not replaced:
    that would silently start a new chain of trust, and signing reports clearly that it is missing.
    """
    if (folder / PUBLIC).exists():
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (folder / PRIVATE).exists():
        _create(folder)
    files.write(folder / PUBLIC, _public_pem(load_private(folder).public_key()))


def load_private(folder: Path) -> Ed25519PrivateKey:
    """The private key. Raises NotFound if there is none, NotAllowed if others can read it, Damaged if it does not parse."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    path = folder / PRIVATE
    data, mode = _read(path)
    if mode & 0o077:
        raise errors.NotAllowed(
            f"{path} can be read by others (mode {stat.S_IMODE(mode):04o}); make a new key, or run 'chmod 600' if it never leaked"
        )
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise errors.Damaged(f"{path} is not a private key: {error}; restore it from a backup") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise errors.Damaged(f"{path} is not an Ed25519 key; restore it from a backup")
    return key


def load_public(folder: Path) -> Ed25519PublicKey:
    """The public key. Raises NotFound if there is none, Damaged if it does not parse."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    path = folder / PUBLIC
    try:
        key = load_pem_public_key(_read(path)[0])
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise errors.Damaged(f"{path} is not a public key: {error}; restore it from a backup") from error
    if not isinstance(key, Ed25519PublicKey):
        raise errors.Damaged(f"{path} is not an Ed25519 key; restore it from a backup")
    return key


def public_fingerprint(key: Ed25519PublicKey) -> str:
    """`sha256:` and the hex SHA-256 of the key's DER form, as `openssl pkey -pubin -outform DER | sha256sum` prints it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return "sha256:" + hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def sign(key: Ed25519PrivateKey, payload: bytes, *, kind: str) -> bytes:
    """The 64-byte signature of *payload* as a *kind* (a media type). The same bytes every time."""
    return key.sign(encode(payload, kind=kind))


def verify(key: Ed25519PublicKey, signature: bytes, payload: bytes, *, kind: str) -> bool:
    """True if *signature* is by *key* over this *payload* as this *kind*."""
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, encode(payload, kind=kind))
    except InvalidSignature:
        return False
    return True


def encode(payload: bytes, *, kind: str) -> bytes:
    """DSSE v1 pre-authentication encoding (secure-systems-lab/dsse, protocol.md)."""
    name = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def _create(folder: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    handle, name = tempfile.mkstemp(dir=folder)  # mode 0600 from the first moment
    with os.fdopen(handle, "wb") as out:
        out.write(pem)
        out.flush()
        os.fsync(handle)
    with contextlib.suppress(FileExistsError):
        os.link(name, folder / PRIVATE)  # unlike a rename this never replaces the key that another process has just made
    os.unlink(name)
    files.sync(folder)


def _public_pem(key: Ed25519PublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _read(path: Path) -> tuple[bytes, int]:
    try:
        with path.open("rb") as file:
            return file.read(1 << 16), os.fstat(file.fileno()).st_mode
    except FileNotFoundError:
        raise errors.NotFound(
            f"{path} does not exist; restore it from a backup, or move the whole folder away to start with a new key"
        ) from None
    except OSError as error:
        raise errors.Unavailable(f"{path} cannot be read: {error}; check its owner and mode") from error

"""Where the documentation comes from: a folder of text files, or a published source archive, as they are.

What does not belong here: what a document says (`chunks`).
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from lastgood import errors
from lastgood.bundle import formats

MAX_BYTES = 50 << 20
"""Largest document; a larger one is no documentation but a dump that went astray."""


def read(source: Path, *, sha256: str | None = None) -> dict[str, str]:
    """Path below `docs` to text of every `.txt` document of *source*, sorted: a folder, or a `.tar.gz` with a `docs` folder in it.

    *sha256* is what an archive must have. Raises NotFound, UsageError (no document, not UTF-8, too long) or Damaged (another archive).
    """
    if source.is_dir():
        raw = _of_folder(source)
    elif source.is_file():
        raw = _of_archive(source, sha256)
    else:
        raise errors.NotFound(f"{str(source)!r} does not exist; see services/helpdesk/corpus/README.md for where to get it")
    found = {name: _text(name, data) for name, data in sorted(raw)}
    if not found:
        raise errors.UsageError(f"{str(source)!r} holds no .txt document; point at the folder with the documentation")
    return found


def digest(documents: dict[str, str]) -> str:
    """SHA-256 over names and texts, so that it can be said which documentation a corpus was made of."""
    total = hashlib.sha256()
    for name, text in sorted(documents.items()):
        data = text.encode("utf-8")
        total.update(f"{name}\n{len(data)}\n".encode() + data)
    return total.hexdigest()


def _of_folder(root: Path) -> Iterator[tuple[str, bytes]]:
    for name in formats.walk(root):
        if name.endswith(".txt"):
            _check_size(name, (root / name).stat().st_size)
            with formats.open_regular(root / name) as file:
                yield name, file.read()


def _of_archive(file: Path, sha256: str | None) -> Iterator[tuple[str, bytes]]:
    """Members are read and never extracted, so it does not matter what they are called."""
    with formats.open_regular(file) as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
        if sha256 is not None and found != sha256:
            raise errors.Damaged(f"{file.name!r} has sha256 {found}, params.yaml says {sha256}; get the published archive again")
        opened.seek(0)
        try:
            with tarfile.open(fileobj=opened, mode="r:gz") as archive:
                for member in archive:
                    where = PurePosixPath(member.name).parts
                    if member.isreg() and len(where) > 2 and where[1] == "docs" and member.name.endswith(".txt"):
                        name = formats.check_path("/".join(where[2:]))
                        _check_size(name, member.size)
                        content = archive.extractfile(member)
                        yield name, content.read() if content else b""
        except (tarfile.TarError, EOFError, OSError) as error:
            raise errors.Damaged(f"{file.name!r} is no whole .tar.gz: {error}; get the published archive again") from error


def _check_size(name: str, size: int) -> None:
    if size > MAX_BYTES:
        raise errors.UsageError(f"document {name!r} has {size:,} bytes, more than {MAX_BYTES:,}; split it, or leave it out")


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise errors.UsageError(f"document {name!r} is not UTF-8 at byte {error.start}; save it as UTF-8, or leave it out") from error

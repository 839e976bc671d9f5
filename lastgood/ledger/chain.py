"""The inputs of the audit chain's hashes: pure functions, shared by writing (`ledger`) and checking (`audit`).

What does not belong here: SQL, files, keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lastgood.bundle import manifest

Row = Mapping[str, Any]

GENESIS = ""

_ENTRY = ("service", "seq", "kind", "subject", "body", "actor", "at", "prev_hash")
_BUNDLE = ("id", "service", "manifest", "provenance", "registered_at")
_REVISION = (
    *("service", "number", "state", "stable", "candidate", "previous"),
    *("verb", "actor", "reason", "evidence", "operation", "at"),
)
_EVALUATION = ("bundle", "seq", "kind", "report", "at")


def entry_hash(entry: Row) -> str:
    """The hash of an audit entry, over everything in it and the hash of the entry before."""
    return _digest({name: entry[name] for name in _ENTRY})


def bundle_digest(row: Row) -> str:
    """The digest of a bundle row, over the stored text, so that any edit of a byte shows."""
    return _digest({name: row[name] for name in _BUNDLE})


def revision_digest(row: Row, marks: Sequence[Row]) -> str:
    """The digest of a revision row together with the marks written with it, in any order."""
    written = sorted([mark["bundle"], mark["kind"], mark["reason"]] for mark in marks)
    return _digest({name: row[name] for name in _REVISION} | {"marks": written})


def evaluation_digest(row: Row) -> str:
    """The digest of an evaluation row."""
    return _digest({name: row[name] for name in _EVALUATION})


def note_digest(body: Row) -> str:
    """The digest of a note's content."""
    return manifest.sha256(manifest.canonical(dict(body)))


def _digest(flat: dict[str, Any]) -> str:
    """SHA-256 of the RFC 8785 bytes of *flat*, whose values are strings, None, integers, finite floats and lists of strings.

    Except for floats the standard library writes those very bytes, three times faster than rfc8785 does; a
    test compares the two on random values. Verifying 100,000 entries hashes 200,000 of these.
    """
    members = (f"{_encode(name)}:{_number(value) if isinstance(value, float) else _encode(value)}" for name, value in sorted(flat.items()))
    return "sha256:" + hashlib.sha256(("{" + ",".join(members) + "}").encode()).hexdigest()


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _number(value: float) -> str:
    return manifest.canonical(value).decode()

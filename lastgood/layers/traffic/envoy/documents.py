"""Discovery documents: the files that Envoy watches, each with its own checksum. Pure.

What does not belong here: the content of their resources (`config`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from lastgood import errors

Json = dict[str, Any]

_VERSION = re.compile(r"(\d+)-[0-9a-f]{16}")


def make(resources: Sequence[Json], *, revision: int) -> Json:
    """A discovery document, with the version `<revision>-<hash of the resources>`.

    So it carries its own checksum, and the version that Envoy reports names the revision and the exact content.
    """
    return {"version_info": f"{revision}-{tag(resources)}", "resources": list(resources)}


def revision_of(version: str | None) -> int | None:
    """The ledger revision in a version made by `make`; None for any other text."""
    match = _VERSION.fullmatch(version or "")
    return int(match[1]) if match else None


def parse(data: bytes, *, where: str) -> Json:
    """The document in *data*. Raises Damaged if it does not parse or its checksum does not match."""
    try:
        value = json.loads(data)
        resources, revision = value["resources"], revision_of(value["version_info"])
        if set(value) != {"version_info", "resources"} or revision is None or make(resources, revision=revision) != value:
            raise ValueError("its content does not match its checksum")
        return {"version_info": value["version_info"], "resources": resources}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise errors.Damaged(f"{where} is damaged: {error}; remove it and run 'lastgood up' when the ledger is available") from error


def dumps(value: Any) -> bytes:
    """The serialized bytes of a document: sorted, so that equal content gives an equal file."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def tag(value: Any) -> str:
    """16 hex digits that identify the content of a JSON value."""
    return hashlib.sha256(dumps(value)).hexdigest()[:16]

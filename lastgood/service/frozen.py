"""The service configuration that is frozen in a bundle."""

from __future__ import annotations

import functools
from pathlib import Path

from lastgood import errors
from lastgood.bundle import manifest
from lastgood.bundle import store as bundle_store
from lastgood.service import schema


def read(of: manifest.Bundle | None, *, store: bundle_store.Store) -> schema.Service | None:
    """The service configuration inside *of*'s config part; None if there is no bundle. Raises NotFound or Damaged."""
    if of is None:
        return None
    if "config" not in of.parts:
        raise errors.NotFound(f"bundle of {of.service!r} has no config part; rebuild it with one")
    return _parsed(store.path(of.parts["config"].digest) / schema.FILE)


@functools.lru_cache(maxsize=64)
def _parsed(file: Path) -> schema.Service:
    """Parsed once per process: the folder's name is the digest of its content."""
    try:
        return schema.parse_frozen(file.read_text("utf-8"), where=str(file))
    except (OSError, UnicodeDecodeError, errors.UsageError) as error:
        raise errors.Damaged(f"{file} is not a usable {schema.FILE}: {error}; build the bundle again") from error

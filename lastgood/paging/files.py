"""Pages as files: one per page in `pages/` of the home folder, and a line in the log.

The channel that is always available. What does not belong here: which pages are due, and channels over a network (`delivery`,
`channels`).
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lastgood.system import files

log = logging.getLogger("lastgood.pages")

SCHEMA = "lastgood.page/v1"

_LEVELS = {"critical": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO}


def leave(folder: Path, *, service: str, revision: int, name: str, page: Mapping[str, Any]) -> None:
    """Write *page* to a file in *folder* named after *service*, *revision* and *name*: atomic and durable. Raises OSError."""
    file = f"{service}-{revision:08d}-{uuid.uuid5(uuid.NAMESPACE_OID, name).hex[:8]}.json"
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / file, json.dumps({"schema": SCHEMA, "service": service, "revision": revision, **page}))


def log_page(summary: str, *, severity: str) -> None:
    """Write a page to the log."""
    log.log(_LEVELS[severity], "PAGE %s", summary)

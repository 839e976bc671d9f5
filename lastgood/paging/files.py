"""What a person must be told, as files: one per page in `pages/` of the home folder, and a line in the log.

The channel that is always there. What does not belong here: which pages are due, and channels over a network (`delivery`, `channels`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lastgood.system import files as durable

log = logging.getLogger("lastgood.pages")

SCHEMA = "lastgood.page/v1"

_LEVELS = {"critical": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO}


def write(home: Path, *, service: str, revision: int, summary: str, now: float) -> None:
    """Leave a page about *revision* of *service*; the same revision and summary leave it once. Never fails what it is about."""
    log.error("PAGE %s", summary)
    with contextlib.suppress(OSError):
        leave(home / "pages", service=service, revision=revision, name=summary, page={"summary": summary, "at": now})


def leave(folder: Path, *, service: str, revision: int, name: str, page: Mapping[str, Any]) -> None:
    """Put *page* into a file of *folder* whose name is made from *service*, *revision* and *name*: in one step, on disk. Raises OSError."""
    file = f"{service}-{revision:08d}-{uuid.uuid5(uuid.NAMESPACE_OID, name).hex[:8]}.json"
    folder.mkdir(parents=True, exist_ok=True)
    # Two that leave the same page at once must not take each other's file away.
    staged = folder / f".{file}.{os.getpid()}-{threading.get_ident()}"
    try:
        staged.write_text(json.dumps({"schema": SCHEMA, "service": service, "revision": revision, **page}), "utf-8")
        durable.sync(staged)
        staged.replace(folder / file)
    finally:
        staged.unlink(missing_ok=True)
    durable.sync(folder)


def tell(summary: str, *, severity: str) -> None:
    """Put a page into the log."""
    log.log(_LEVELS[severity], "PAGE %s", summary)

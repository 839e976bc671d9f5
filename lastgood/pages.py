"""What a person must be told: one file per page in `pages/` of the home folder, for whatever delivers it.

Writing a page never delays or fails the change it is about.
"""

from __future__ import annotations

import contextlib
import json
import logging
import uuid
from pathlib import Path

log = logging.getLogger("lastgood.pages")


def write(home: Path, *, service: str, revision: int, summary: str, now: float) -> None:
    """Leave a page about *revision* of *service*; the same revision and summary leave it once."""
    page = {"schema": "lastgood.page/v1", "service": service, "revision": revision, "summary": summary, "at": now}
    name = f"{service}-{revision:08d}-{uuid.uuid5(uuid.NAMESPACE_OID, summary).hex[:8]}.json"
    log.error("PAGE %s", summary)
    with contextlib.suppress(OSError):
        folder = home / "pages"
        folder.mkdir(parents=True, exist_ok=True)
        staged = folder / f".{name}"
        staged.write_text(json.dumps(page), "utf-8")
        staged.replace(folder / name)

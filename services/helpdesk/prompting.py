"""Making the prompt part out of the templates in `prompt/`.

What does not belong here: what a template may do (`lastgood.bundle.prompts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lastgood import errors
from lastgood.bundle import manifest, prompts

NEEDED = ("system", "user", "query")
"""What `runtime` renders."""


def freeze(folder: Path, out: Path, *, replace: Mapping[str, str]) -> tuple[Path, list[str]]:
    """The frozen prompt, and what is odd about it. Raises UsageError if the runtime would miss a part of it."""
    frozen = prompts.freeze(folder, out, replace=replace)
    missing = [name for name in NEEDED if name not in prompts.describe(frozen).parts]
    if missing:
        raise errors.UsageError(f"the prompt lacks {', '.join(missing)}, which the service renders; add it to 'parts' in {prompts.FILE}")
    return frozen, prompts.check(frozen)


def texts(part: Path) -> Mapping[str, str]:
    """The templates of a prompt part by name."""
    return prompts.load(part).texts


def meta(part: Path) -> dict[str, Any]:
    """What the manifest says of the prompt: the digest of each template, so that a difference has a name."""
    return {name: manifest.sha256(text.encode("utf-8")) for name, text in sorted(texts(part).items())}

"""The files of this checkout: those that git knows, or, in a copy without git, all that no tool has made."""

from __future__ import annotations

import fnmatch
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests import tools

ROOT = Path(__file__).resolve().parent.parent
IGNORED = [line.strip("/") for line in (ROOT / ".gitignore").read_text("utf-8").splitlines() if line]
"""Patterns of names and, with a slash inside, of paths; that is all that our .gitignore uses."""


def files(*folders: str) -> list[Path]:
    """Paths of files below *folders* (default: everything), relative to the root."""
    git = tools.where("git")
    if git is not None and (ROOT / ".git").exists():
        listed = subprocess.run([git, "ls-files", "-z", *folders], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        return [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]
    return sorted(path.relative_to(ROOT) for folder in folders or (".",) for path in _walk(ROOT / folder))


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        name = path.relative_to(ROOT).as_posix()
        if path.name == ".git" or any(fnmatch.fnmatch(name if "/" in pattern else path.name, pattern) for pattern in IGNORED):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        elif path.is_file():
            yield path

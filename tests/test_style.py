"""Habits that no linter checks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import tracked

ROOT = Path(__file__).resolve().parent.parent

MACHINE_PATHS = re.compile(r"(?<![\w.~/>})-])/(?:home|root|Users|work|tmp/[a-z])/?\w")
INDEX_ADDRESSES = re.compile(r"https?://[^\s\"'<>)]*(?:/simple\b|/packages/\S+\.(?:whl|tar\.gz))", re.IGNORECASE)


FOREIGN = "services/helpdesk/corpus/django-"
"""Texts of other people, as they published them."""


def _hits(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in (ROOT / name for name in tracked.files()):
        if path == Path(__file__) or str(path.relative_to(ROOT)).startswith(FOREIGN):
            continue
        try:
            lines = path.read_text("utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # a picture
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}" for number, line in enumerate(lines, 1) if pattern.search(line)
        ]
    return found


def test_no_path_of_one_machine():
    """No tracked file names a home or working folder that only one machine has."""
    assert _hits(MACHINE_PATHS) == []


def test_no_address_of_a_package_index():
    """No tracked file ties a clone to one package server; each user's own configuration decides."""
    assert _hits(INDEX_ADDRESSES) == []


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (MACHINE_PATHS, 'path = "/home/ann/lastgood"'),
        (MACHINE_PATHS, "cd /Users/ann/src"),
        (INDEX_ADDRESSES, "--index-url https://index.example/simple"),
        (INDEX_ADDRESSES, "https://index.example/packages/a.whl"),
    ],
)
def test_the_patterns_find_what_they_are_for(pattern: re.Pattern[str], line: str):
    """Each pattern matches a line that it must not let through."""
    assert pattern.search(line)


def test_no_file_of_the_library_needs_a_table_of_contents():
    """A module of more than 500 lines is two modules."""
    sizes = {
        path.as_posix(): len((ROOT / path).read_text("utf-8").splitlines()) for path in tracked.files("lastgood") if path.suffix == ".py"
    }
    assert sizes
    assert {name: lines for name, lines in sizes.items() if lines > 500} == {}


def test_every_test_folder_is_a_package():
    """Without __init__.py, tests/assets would take the place of assets on the search path."""
    folders = {(ROOT / path).parent for path in tracked.files("tests") if path.suffix == ".py"}
    assert [folder.relative_to(ROOT).as_posix() for folder in folders if not (folder / "__init__.py").exists()] == []

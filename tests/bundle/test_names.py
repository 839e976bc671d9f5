"""Names in a part stay inside the part, on every platform."""

from __future__ import annotations

import contextlib
import os
import posixpath
import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lastgood import errors
from lastgood.bundle import formats
from lastgood.bundle import store as bundle_store

HOSTILE = [
    "", ".", "..", "../a", "a/../b", "a/..", "/a", "//a", "a//b", "a/", "./a", "~/a\n", "a\\b", "C:\\a", "a:b", "a\0b", "a\nb", "a\x7f",
    "-rf", "a/-x", " a", "a ", "a.", "a/b./c", "caf\u00e9", "cafe\u0301", "\u202etxt", "\uff0e\uff0e/a", "a*b", "a|b", "a;b", "$(a)", "`a`", "a'b",
    'a"b', "a" * 256, "/".join("a" * 33), "a" * 200 + "/" + "b" * 200 + ("/" + "c" * 250) * 4,
]  # fmt: skip
PLAIN = [
    "a",
    "a.txt",
    ".hidden",
    "a b.csv",
    "month=01/part-0.parquet",
    "_versions/1.manifest",
    "A-b_c.D",
    "...a",
    "a" * 255,
    "/".join("a" * 32),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(name):
    """Escapes, control and shell characters, other scripts, option-like and over-long names."""
    with pytest.raises(errors.NotAllowed, match="safe file name"):
        formats.check_path(name)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_names_pass(name):
    """What libraries really write passes unchanged."""
    assert formats.check_path(name) == name


@pytest.mark.parametrize(
    "names", [["A", "a"], ["a", "a"], ["x/A/b", "x/a/c"], ["a", "a/b"], ["a/b", "A"], ["Straße".replace("ß", "ss"), "STRASSE"]]
)
def test_names_that_collide_without_case_are_refused(names):
    """Two names that are one on a disk that ignores case, as a file or as a folder, are refused in any order."""
    for order in (names, names[::-1]):
        with pytest.raises(errors.NotAllowed, match="rename"):
            formats.check_paths(order)


def test_brothers_pass():
    """Files side by side, in shared folders, are no collision."""
    formats.check_paths(["a/b", "a/c", "a/d/e", "b", "B.txt"])


SEGMENTS = st.one_of(st.sampled_from(["..", ".", "", "a", "A", "~", "con", "\u00e9", "e\u0301", "a\0", "-", " "]), st.text(max_size=6))


@settings(max_examples=1000, deadline=None)
@given(st.lists(SEGMENTS, min_size=1, max_size=5).map("/".join))
def test_whatever_passes_stays_inside(name):
    """Any name that is let through is relative, normal, ASCII, and below the folder it is joined to."""
    try:
        formats.check_path(name)
    except errors.NotAllowed:
        return
    assert posixpath.normpath(name) == name
    assert os.path.commonpath(["/top/part", os.path.normpath(Path("/top/part", name))]) == "/top/part"
    assert unicodedata.normalize("NFC", name) == name
    assert name.isascii()
    assert name.isprintable()
    assert not any(s.startswith(("-", " ")) or s.endswith((" ", ".")) for s in name.split("/"))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(SEGMENTS, min_size=1, max_size=3).map("/".join), min_size=1, max_size=4))
def test_folders_with_any_names_are_stored_whole_or_refused(names):
    """A real folder with whatever names the disk takes is stored exactly, or refused with nothing stored."""
    with tempfile.TemporaryDirectory() as base:
        source, store = Path(base, "in"), bundle_store.Store(Path(base, "store"))
        source.mkdir()
        for name in names:
            target = os.path.normpath(Path(source, name.lstrip("/")))
            if os.path.commonpath([source, target]) == str(source):
                _create(Path(target))
        there = {str(p.relative_to(source)): p.read_bytes() for p in source.rglob("*") if p.is_file()}
        try:
            stored = store.put(source)
        except (errors.NotAllowed, errors.UsageError):
            assert list(store.digests()) == []
            return
        tree = store.path(stored.digest)
        assert {str(p.relative_to(tree)): p.read_bytes() for p in tree.rglob("*") if p.is_file()} == there
        store.verify(stored.digest)


def _create(path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("content")
    except (OSError, ValueError):
        return  # the disk itself refuses this name


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_listing_parses_or_is_refused(data):
    """Arbitrary bytes as a listing are Damaged or NotAllowed, or come back byte for byte."""
    with contextlib.suppress(errors.Damaged, errors.NotAllowed):
        assert bundle_store.parse_listing(data).canonical() == data

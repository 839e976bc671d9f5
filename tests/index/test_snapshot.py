"""The index part: one form, one id, and refusal of whatever no engine could hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from lastgood import errors
from lastgood.conformance import index as suite
from lastgood.index import snapshot as index_snapshot

EMBEDDER = suite.EMBEDDER


def write(out: Path, rows: Any, vectors: Any = None, **spec: Any) -> index_snapshot.Snapshot:
    """A part of these rows."""
    block = suite.make_vectors(len(rows)) if vectors is None else vectors
    return index_snapshot.write(rows, block, out, embedder=EMBEDDER, spec=spec)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """Rows, vectors and what they are."""
    snapshot = suite.make_part(tmp_path / "part")
    assert index_snapshot.verify(tmp_path / "part") == snapshot
    order = sorted(range(60), key=lambda number: suite.make_rows(60)[number].id.encode())
    assert list(index_snapshot.read_rows(tmp_path / "part")) == [suite.make_rows(60)[number] for number in order]
    assert (index_snapshot.read_vectors(tmp_path / "part") == suite.make_vectors(60)[order]).all()
    assert (snapshot.rows, snapshot.dim, snapshot.embedder) == (60, suite.DIM, EMBEDDER)


def test_the_order_of_the_rows_does_not_matter(tmp_path: Path) -> None:
    """Byte for byte the same part."""
    rows, vectors = suite.make_rows(30), suite.make_vectors(30)
    one = write(tmp_path / "one", rows, vectors)
    other = write(tmp_path / "two", rows[::-1], vectors[::-1])
    assert one == other
    for name in (index_snapshot.FILE, index_snapshot.ROWS, index_snapshot.VECTORS):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_id_is_that_of_all_it_is_made_of(tmp_path: Path) -> None:
    """A text, a meta, a vector, the embedder or the specification: each makes another snapshot."""
    rows, vectors = suite.make_rows(3), suite.make_vectors(3)
    other_text = [index_snapshot.Row(id=rows[0].id, text="other", meta=rows[0].meta), *rows[1:]]
    other_meta = [index_snapshot.Row(id=rows[0].id, text=rows[0].text, meta={}), *rows[1:]]
    nudged = vectors.copy()
    nudged[0, 0] = np.nextafter(nudged[0, 0], np.float32(2))
    made = [
        write(tmp_path / "1", rows, vectors), write(tmp_path / "2", other_text, vectors), write(tmp_path / "3", other_meta, vectors),
        write(tmp_path / "4", rows, nudged), write(tmp_path / "5", rows, vectors, metric="dot"),
        index_snapshot.write(rows, vectors, tmp_path / "6", embedder="sha256:" + "f" * 64),
    ]  # fmt: skip
    assert len({one.id for one in made}) == len(made)
    assert all(one.name == index_snapshot.name_of(one.id) for one in made)


def test_nothing_moves_from_one_field_to_the_next() -> None:
    """The same bytes, cut elsewhere, are other rows."""
    packed = [
        index_snapshot.Packed(b"ab", b"c", b"{}", b"vvvv"),
        index_snapshot.Packed(b"a", b"bc", b"{}", b"vvvv"),
        index_snapshot.Packed(b"ab", b"c", b"{}v", b"vvv"),
    ]
    assert len({one.digest() for one in packed}) == 3


def test_negative_zero_is_zero(tmp_path: Path) -> None:
    """They are one number, and an engine may give back either."""
    vectors = np.array([[0.0, 1.0], [1.0, 0.0]], dtype=np.float32)
    one = write(tmp_path / "one", suite.make_rows(2), vectors)
    assert one.id == write(tmp_path / "two", suite.make_rows(2), np.where(vectors == 0, np.float32(-0.0), vectors)).id


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([], "there are none"),
        ([index_snapshot.Row(id="a", text="x"), index_snapshot.Row(id="a", text="y")], "twice"),
        ([index_snapshot.Row(id="", text="x")], "empty"), ([index_snapshot.Row(id="a" * 600, text="x")], "longer than 512"),
        ([index_snapshot.Row(id="a\0", text="x")], "NUL"), ([index_snapshot.Row(id="\ud800", text="x")], "Unicode"),
        ([index_snapshot.Row(id="a", text=" \n")], "empty"), ([index_snapshot.Row(id="a", text="x\0")], "NUL"),
        ([index_snapshot.Row(id="a", text="\udfff")], "Unicode"), ([index_snapshot.Row(id="a", text="x" * (1 << 20) + "y")], "longer"),
        ([index_snapshot.Row(id="a", text="x", meta={"f": 0.5})], "whole numbers"),  # type: ignore[dict-item]
        ([index_snapshot.Row(id="a", text="x", meta={"ü": 1})], "ASCII"), ([index_snapshot.Row(id="a", text="x", meta={"n": 1 << 60})], "whole"),
        ([index_snapshot.Row(id="a", text="x", meta={"n": [1]})], "text, whole"), ([index_snapshot.Row(id="a", text="x", meta={"n": "\0"})], "names must be"),  # type: ignore[dict-item]
    ],
)  # fmt: skip
def test_rows_that_no_engine_holds_are_refused(tmp_path: Path, rows: list[index_snapshot.Row], match: str) -> None:
    """Before anything is written."""
    with pytest.raises(errors.UsageError, match=match):
        write(tmp_path / "part", rows, suite.make_vectors(len(rows)))
    assert not (tmp_path / "part").exists()


def test_vectors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Too few, of no shape, not finite: the row is named."""
    rows = suite.make_rows(3)
    for wrong in (suite.make_vectors(2), np.zeros(3), np.zeros((3, 0)), np.zeros((3, 20_000)), np.zeros((3, 2, 2))):
        with pytest.raises(errors.UsageError, match="shape"):
            write(tmp_path / "part", rows, wrong)
    for bad in (np.nan, np.inf):
        vectors = suite.make_vectors(3)
        vectors[1, 2] = bad
        with pytest.raises(errors.UsageError, match="row 1"):
            write(tmp_path / "part", rows, vectors)


def test_one_changed_byte_is_found(tmp_path: Path) -> None:
    """Anywhere in the part, but for the blanks at the head of the vectors, which say nothing (the store's digest has them too)."""
    snapshot = suite.make_part(tmp_path / "part", count=5)
    for name in (index_snapshot.FILE, index_snapshot.ROWS, index_snapshot.VECTORS):
        file = tmp_path / "part" / name
        good = file.read_bytes()
        for place in range(128 if name == index_snapshot.VECTORS else 0, len(good), 7):
            file.write_bytes(good[:place] + bytes([good[place] ^ 0x20]) + good[place + 1 :])
            try:
                found = index_snapshot.verify(tmp_path / "part")
            except (errors.Damaged, errors.UsageError):
                continue
            assert name == index_snapshot.FILE
            assert found.id != snapshot.id, "it says that it is another one, and a bundle names the one that it needs"
        file.write_bytes(good)
    index_snapshot.verify(tmp_path / "part")


@given(
    st.dictionaries(
        st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-(2**53) + 1, 2**53 - 1),
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
        ),
    )
)
def test_meta_is_written_in_the_canonical_form(meta: dict[str, Any]) -> None:
    """As RFC 8785 says, and back again."""
    assert index_snapshot.canonical_meta(meta) == rfc8785.dumps(meta)
    assert json.loads(index_snapshot.canonical_meta(meta)) == meta


def test_a_folder_that_is_no_part_says_so(tmp_path: Path) -> None:
    """Not there, or not ours."""
    with pytest.raises(errors.NotFound, match="build the index again"):
        index_snapshot.read(tmp_path)
    (tmp_path / index_snapshot.FILE).write_text("[]")
    with pytest.raises(errors.Damaged):
        index_snapshot.read(tmp_path)

"""The measurement of indexes: its own instruments. Nothing here is timed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import helpdesk_project, index_lance, index_rows, index_ways


@pytest.fixture(scope="module")
def data() -> index_rows.Data:
    """Two versions of a few rows."""
    return index_rows.make(300, 16, questions=20)


def test_a_tenth_of_the_rows_is_rewritten(data: index_rows.Data) -> None:
    """B has the same ids, and other texts and vectors in one row of ten; the probe tells the two apart."""
    differ = [n for n, (a, b) in enumerate(zip(data.a.rows, data.b.rows, strict=True)) if a != b]
    assert differ == data.changed == list(range(0, 300, 10))
    assert [row.id for row in data.a.rows] == [row.id for row in data.b.rows]
    assert all(((data.a.vectors[n] != data.b.vectors[n]).any()) == (n in differ) for n in range(300))
    assert data.told(data.a) == data.a.rows[0].text != data.told(data.b)


@pytest.mark.parametrize("way", [index_lance.Snapshots, index_lance.Reopened, index_lance.InPlace, index_lance.Copied])
def test_every_way_goes_forth_and_back(way: type[index_ways.Way], data: index_rows.Data, tmp_path: Path) -> None:
    """After each swap the right version answers; only the copy writes rows to go back."""
    made = way(data, tmp_path)
    made.swaps = 2  # type: ignore[misc]
    found = index_ways.figures(made)
    made.close()
    assert found.recall == 1.0
    assert found.stored > 300 * 16 * 4
    assert (found.moved > 300 * 16 * 4) == (way is index_lance.Copied)
    assert (found.moved == 0) == issubclass(way, index_lance.Snapshots)


def test_a_way_that_does_not_go_back_is_found(data: index_rows.Data, tmp_path: Path) -> None:
    """A swap that forgets to swap is no fast one."""

    class Forgetful(index_lance.Snapshots):
        name = "forgetful"

        def back(self) -> None:
            """Nothing."""

    made = Forgetful(data, tmp_path)
    with pytest.raises(AssertionError, match="forgetful answers from the wrong version"):
        index_ways.figures(made)
    made.close()


ONE = helpdesk_project.Release(bundle="b1", named={"model": "m1", "prompt": "p1", "index": "i1"}, made_of={"index": "s1", "prompt": "p1"})
WHOLE = {"bundle": "b1", "model": "m1", "prompt": "p1", "index": "i1", "predictions": [{"made_of": {"index": "s1", "prompt": "p1"}}]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"bundle": "b2"},
        {"model": "m2"},
        {"prompt": "p2"},
        {"index": "i2"},
        {"predictions": [{"made_of": {"index": "s2", "prompt": "p1"}}]},
        {"predictions": [{"made_of": {"index": "s1", "prompt": "p2"}}]},
        {"predictions": [{}]},
    ],
    ids=str,
)
def test_a_mixed_answer_of_the_helpdesk_is_found(wrong: dict[str, object]) -> None:
    """By any part that it names, and by what it was really made of."""
    assert ONE.made(WHOLE)
    assert not ONE.made({**WHOLE, **wrong})

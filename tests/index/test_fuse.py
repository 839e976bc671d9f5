"""Several rankings become one by ranks alone."""

from __future__ import annotations

import pytest

from lastgood import errors
from lastgood.index import base, fuse, snapshot


def ranking(*names: str, score: float = 1.0) -> list[base.Hit]:
    """Hits in this order."""
    return [base.Hit(row=snapshot.Row(id=name, text=name), score=score) for name in names]


def test_what_both_find_stands_above_what_one_finds() -> None:
    """Whatever the scores are."""
    fused = fuse.reciprocal_rank(ranking("a", "b", score=0.9), ranking("c", "b", score=99.0), k=3)
    assert [hit.row.id for hit in fused] == ["b", "a", "c"]
    assert fused[0].score == pytest.approx(2 / 62)
    assert fused[1].score == fused[2].score == pytest.approx(1 / 61)


def test_one_ranking_keeps_its_order_and_k_is_a_limit() -> None:
    """And none gives none."""
    assert [hit.row.id for hit in fuse.reciprocal_rank(ranking("z", "y", "x"), [], k=2)] == ["z", "y"]
    assert fuse.reciprocal_rank([], [], k=5) == []


def _scored(**scores: float) -> list[base.Hit]:
    return [base.Hit(row=snapshot.Row(id=name, text=name), score=score) for name, score in sorted(scores.items(), key=lambda one: -one[1])]


def test_by_score_a_clear_first_beats_two_middling_ones() -> None:
    """By ranks it is the other way round."""
    meaning = _scored(top=0.95, b=0.42, c=0.41, mid=0.40, e=0.39, f=0.38)
    by_words = _scored(g=9.0, h=3.0, i=2.9, mid=2.8, k=2.7, m=2.6)
    assert fuse.reciprocal_rank(meaning, by_words, k=1)[0].row.id == "mid"
    assert [hit.row.id for hit in fuse.by_score(meaning, by_words, k=2)] == ["g", "top"]


def test_the_weight_of_a_search_is_a_setting() -> None:
    """All of one, none of the other; scales do not matter."""
    one, other = _scored(a=1000.0, b=10.0), _scored(c=0.2, d=0.1)
    assert fuse.by_score(one, other, k=1, weights=(1, 0))[0].row.id == "a"
    assert fuse.by_score(one, other, k=1, weights=(0.3, 0.7))[0].row.id == "c"
    assert fuse.by_score([], other, k=5)[0].row.id == "c"
    assert fuse.by_score([], [], k=5) == fuse.by_score(k=5) == []


@pytest.mark.parametrize("weights", [(1,), (0, 0), (-1, 2), (float("nan"), 1)])
def test_weights_that_do_not_fit_are_refused(weights: tuple[float, ...]) -> None:
    """One each, not negative, not all nothing."""
    with pytest.raises(errors.UsageError, match="at least 0"):
        fuse.by_score(_scored(a=1), _scored(b=1), k=1, weights=weights)

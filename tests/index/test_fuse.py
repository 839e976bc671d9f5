"""Several rankings become one by ranks alone."""

from __future__ import annotations

import pytest

from lastgood.index import base, fuse
from lastgood.index import snapshot as snapshots


def ranking(*names: str, score: float = 1.0) -> list[base.Hit]:
    """Hits in this order."""
    return [base.Hit(row=snapshots.Row(id=name, text=name), score=score) for name in names]


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

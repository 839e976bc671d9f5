"""One ranking out of several: what words find and what vectors find, together.

What does not belong here: searching (`base.Reader`).
"""

from __future__ import annotations

from collections.abc import Sequence

from lastgood.index import base

RRF_K = 60
"""Of reciprocal rank fusion (Cormack, Clarke, Büttcher 2009): how little the first ranks stand out; 60 is the paper's."""


def reciprocal_rank(*rankings: Sequence[base.Hit], k: int, constant: float = RRF_K) -> list[base.Hit]:
    """The best *k* rows of all rankings, each scored by the sum of 1 / (constant + rank); equal ones by id.

    Ranks and not scores, since a cosine and a measure for words have no common scale.
    """
    scores: dict[str, float] = {}
    rows = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, start=1):
            scores[hit.row.id] = scores.get(hit.row.id, 0.0) + 1.0 / (constant + rank)
            rows[hit.row.id] = hit.row
    ordered = sorted(scores, key=lambda name: (-scores[name], name))
    return [base.Hit(row=rows[name], score=scores[name]) for name in ordered[:k]]

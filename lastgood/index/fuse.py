"""One ranking from several: the results of word search and vector search combined.

What does not belong here: searching (`base.Reader`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lastgood import errors
from lastgood.index import base

RRF_K = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke, Büttcher 2009): how little the first ranks stand out; 60 is the paper's."""


DEPTH = 5
"""So many times the wanted rows each search should give before they are fused: of two lists of ten, what one has at its end is unknown to the other."""


def by_score(*rankings: Sequence[base.Hit], k: int, weights: Sequence[float] | None = None) -> list[base.Hit]:
    """The best *k* rows of all rankings, each scored by the weighted sum of its scores; equal ones by id.

    A ranking's scores are normalized first: 1 for its best, 0 for its last, or for what it has not found (Bruch, Gai,
    Ingber 2023). So a clear first place beats two middling ones, which it does not by ranks alone. *weights* are 1 each by default.
    Raises UsageError for weights that do not fit.
    """
    shares = [1.0] * len(rankings) if weights is None else list(weights)
    if len(shares) != len(rankings) or not all(math.isfinite(one) and one >= 0 for one in shares) or not (sum(shares) > 0 or not rankings):
        raise errors.UsageError(f"{len(rankings)} rankings have the weights {shares}; give each one a number of at least 0, not all 0")
    scores: dict[str, float] = {}
    rows = {}
    for ranking, share in zip(rankings, shares, strict=True):
        for hit, scaled in zip(ranking, _scaled([hit.score for hit in ranking]), strict=True):
            scores[hit.row.id] = scores.get(hit.row.id, 0.0) + share * scaled / sum(shares)
            rows[hit.row.id] = hit.row
    ordered = sorted(scores, key=lambda name: (-scores[name], name))
    return [base.Hit(row=rows[name], score=scores[name]) for name in ordered[:k]]


def _scaled(scores: Sequence[float]) -> list[float]:
    """Scores between 0 and 1; all 1 where they are alike."""
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    return [(one - low) / (high - low) if high > low else 1.0 for one in scores]


def reciprocal_rank(*rankings: Sequence[base.Hit], k: int, constant: float = RRF_K) -> list[base.Hit]:
    """The best *k* rows of all rankings, each scored by the sum of 1 / (constant + rank); equal ones by id.

    Uses ranks and not scores, since a cosine and a word measure have no common scale.
    """
    scores: dict[str, float] = {}
    rows = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, start=1):
            scores[hit.row.id] = scores.get(hit.row.id, 0.0) + 1.0 / (constant + rank)
            rows[hit.row.id] = hit.row
    ordered = sorted(scores, key=lambda name: (-scores[name], name))
    return [base.Hit(row=rows[name], score=scores[name]) for name in ordered[:k]]

"""What is watched of questions: numbers that move when users ask about something else, or when the documentation has less to say to it.

similarity            cosine of the question and the nearest passage
similarity_mean       the same, over all passages that are looked for
words                 how long the question is
topic_1 ... topic_8   where the question points, along the directions in which the documentation differs most from itself

A question without a single known word has no direction: all but `words` are missing, and missing values are watched too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lastgood.index import base, embedders, snapshot

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Directions = npt.NDArray[np.float64]
    """(dim, TOPICS)"""

TOPICS = 8
MOST = 20_000
"""Passages that the directions are taken from; of more, every second, third, ..."""


def directions(part: Path) -> Directions:
    """The TOPICS principal directions of the vectors of an index part, largest first, signs fixed. Raises Damaged."""
    import numpy as np

    vectors = snapshot.read_vectors(part)
    taken = np.asarray(vectors[:: max(1, math.ceil(len(vectors) / MOST))], dtype=np.float64)
    centred = taken - taken.mean(axis=0) if len(taken) else taken
    _, found = np.linalg.eigh(centred.T @ centred)
    largest = found[:, ::-1][:, :TOPICS]
    signs = np.sign(largest[np.abs(largest).argmax(axis=0), np.arange(largest.shape[1])])
    return np.asarray(largest * signs)


def of(
    queries: Sequence[str], *, reader: base.Reader, embedder: embedders.Embedder, directions: Directions, k: int
) -> dict[str, list[float]]:
    """The numbers of each query, by name; NaN is missing."""
    import numpy as np

    vectors = embedder.embed(list(queries)) if queries else np.zeros((0, len(directions)), dtype=np.float32)
    known = np.asarray(vectors.any(axis=1))
    near = [[hit.score for hit in reader.search(vector, k=k)] if there else [] for vector, there in zip(vectors, known, strict=True)]
    pointed = np.where(known[:, None], vectors @ directions, math.nan)
    return {
        "similarity": [scores[0] if scores else math.nan for scores in near],
        "similarity_mean": [math.fsum(scores) / len(scores) if scores else math.nan for scores in near],
        "words": [float(len(query.split())) for query in queries],
        **{f"topic_{number + 1}": pointed[:, number].tolist() for number in range(directions.shape[1])},
    }

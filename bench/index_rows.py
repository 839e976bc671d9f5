"""Two versions of a corpus with vectors: B is A with one row in ten rewritten. Real passages, vectors drawn in clusters."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from lastgood.index import snapshot

if TYPE_CHECKING:
    from lastgood.index.snapshot import Vectors

DOCUMENTS = Path(__file__).resolve().parent.parent / "services/helpdesk/corpus/django-5.2"
LENGTH = 300
CHANGED_EVERY = 10
PER_CLUSTER = 100
K = 10
EMBEDDER = "sha256:" + "0" * 64
"""Nothing embeds here, so nothing has a digest."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """Rows and their vectors, (rows, dim) float32 of length 1, in the order of the ids."""

    rows: list[snapshot.Row]
    vectors: Vectors


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """A, B, and the numbers of the rows that differ between them. `questions` are (n, dim), their ten nearest rows of A exact."""

    a: Version
    b: Version
    changed: list[int]
    questions: Vectors
    nearest: list[set[str]]

    @property
    def dim(self) -> int:
        return int(self.a.vectors.shape[1])

    def probe(self) -> Vectors:
        """A question that A and B answer differently: the vector that a rewritten row had in A."""
        vector: Vectors = self.a.vectors[self.changed[0]]
        return vector

    def told(self, version: Version) -> str:
        """The text that `version` answers the probe with first."""
        return version.rows[int((version.vectors @ self.probe()).argmax())].text


def make(count: int, dim: int, *, questions: int, seed: int = 1) -> Data:
    """*count* rows of *dim* numbers, the same for the same seed."""
    import numpy as np

    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((max(1, count // PER_CLUSTER), dim), dtype=np.float32)
    texts = _passages()

    def near(number: int) -> Vectors:
        found = centres[draw.integers(len(centres), size=number)] + draw.standard_normal((number, dim), dtype=np.float32)
        unit: Vectors = found / np.linalg.norm(found, axis=1, keepdims=True)
        return unit

    rows = [snapshot.Row(id=f"{n:08}", text=f"{n} {texts[n % len(texts)]}", meta={"path": f"{n % 97}.txt"}) for n in range(count)]
    a = Version(rows=rows, vectors=near(count))
    changed = list(range(0, count, CHANGED_EVERY))
    rewritten, vectors = list(rows), a.vectors.copy()
    vectors[changed] = near(len(changed))
    for number in changed:
        rewritten[number] = dataclasses.replace(rows[number], text=f"{rows[number].text} rewritten")
    asked = near(questions)
    return Data(a=a, b=Version(rows=rewritten, vectors=vectors), changed=changed, questions=asked, nearest=_nearest(a, asked))


def _passages() -> list[str]:
    texts = (path.read_text("utf-8") for path in sorted(DOCUMENTS.rglob("*.txt")))
    cut = (" ".join(text[start : start + LENGTH].split()) for text in texts for start in range(0, len(text), LENGTH))
    return list(itertools.islice((text for text in cut if text), 5000))


def _nearest(version: Version, asked: Vectors) -> list[set[str]]:
    """By looking at every vector."""
    import numpy as np

    found = []
    for question in asked:
        best = np.argpartition(version.vectors @ question, -K)[-K:]
        found.append({version.rows[int(number)].id for number in best})
    return found

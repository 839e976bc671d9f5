"""How well the helpdesk finds the passages of its golden questions: by words, by meaning, by both, and reranked by a trained model.

The model is a logistic regression over both searches' results for a passage and how many words it shares with the question,
trained on four fifths of the questions and tested on the fifth that it has not seen.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import measure
from bench.table import Row, Table
from lastgood.index import base, embedders, fuse, lancedb
from services.helpdesk import build, evaluate, models, pins, prepare, retrieval

ROOT = Path(__file__).resolve().parent.parent
FOLDS = 5
DEEP = 30
"""Passages that each search passes to the ranking."""
WAYS: Sequence[retrieval.Way] = ("text", "vector", "hybrid")

Hits = list[base.Hit]
Golden = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What each search found for each question: by words, and by meaning."""

    text: Mapping[str, Hits]
    vector: Mapping[str, Hits]


def table(*, quick: bool) -> Table:
    """nDCG@10 of each way, for each embedder and version; and what the ranking adds, with a 95 % interval over questions."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        names: tuple[models.Name, ...] = ("wordllama",) if quick else ("wordllama", "minilm")
        for name in names:
            for version in ("5.2",) if quick else ("5.2", "6.0"):
                rows += _measured(Path(scratch) / f"{name}-{version}", name=name, version=version)
    notes = [
        f"slices of the documentation in the repository; {FOLDS} folds by question; ranked anew: the best {DEEP} of each search.",
        "gain: nDCG@10 of the ranking less that of both searches fused by rank, over the same questions; 95 % bootstrap interval in the note.",
    ]
    return Table(title="Finding the passages of golden questions, nDCG@10", ours="both", rows=rows, notes=notes)


def _measured(folder: Path, *, name: models.Name, version: str) -> list[Row]:
    prepare.slice_of(version, out=folder / "corpus", project=ROOT)
    models.write(folder / "model", embedder=name)
    embedder = embedders.load(folder / "model" / pins.EMBEDDER)
    build.build(folder / "corpus", embedder=embedder, out=folder / "part")
    engine = lancedb.LanceIndex(folder / "replicas")
    reader = engine.open(engine.build(folder / "part").name)
    golden = [one for one in evaluate.read_questions(folder / "corpus" / prepare.QUESTIONS) if one["kind"] == "golden"]
    found = Found(
        text={one["question"]: reader.search_text(one["question"], k=DEEP) for one in golden},
        vector={one["question"]: reader.search(embedder.embed([one["question"]])[0], k=DEEP) for one in golden},
    )
    reader.close()
    ways = {
        "text": {question: hits[: evaluate.K] for question, hits in found.text.items()},
        "vector": {question: hits[: evaluate.K] for question, hits in found.vector.items()},
        "hybrid": {q: fuse.reciprocal_rank(found.vector[q][: evaluate.K], found.text[q][: evaluate.K], k=evaluate.K) for q in found.text},
        "score": {q: fuse.by_score(found.vector[q], found.text[q], k=evaluate.K) for q in found.text},
        "ranked": _ranked(found, golden),
    }
    scores = {way: _ndcg(hits, golden) for way, hits in ways.items()}
    gain = [ranked - both for ranked, both in zip(scores["ranked"], scores["hybrid"], strict=True)]
    low, high = measure.interval(gain)
    mean: Callable[[Sequence[float]], float] = lambda values: sum(values) / len(values)  # noqa: E731
    peers = {
        "words": mean(scores["text"]),
        "meaning": mean(scores["vector"]),
        "both, by score": mean(scores["score"]),
        "ranked anew": mean(scores["ranked"]),
    }
    note = f"gain {mean(gain):+.3f} ({low:+.3f} to {high:+.3f})"
    return [
        Row(what=f"{name}, Django {version}, {len(golden)} questions", unit="nDCG", ours=mean(scores["hybrid"]), peers=peers, note=note)
    ]


def _ndcg(found: Mapping[str, Hits], golden: Golden) -> list[float]:
    return [evaluate.retrieval_metrics(found, [one])["ndcg_at_10"] for one in golden]


def _ranked(found: Found, golden: Golden) -> dict[str, Hits]:
    """The passages of each question, ranked by a model that has not seen it."""
    import numpy as np
    import sklearn.linear_model

    candidates = {one["question"]: _candidates(found, one["question"]) for one in golden}
    facts = {question: np.array([_facts(question, hit, found) for hit in hits]) for question, hits in candidates.items()}
    ranked = {}
    for fold in range(FOLDS):
        seen = [one for number, one in enumerate(golden) if number % FOLDS != fold]
        x = np.concatenate([facts[one["question"]] for one in seen])
        y = [hit.row.id in one["answers"] for one in seen for hit in candidates[one["question"]]]
        model = sklearn.linear_model.LogisticRegression(class_weight="balanced", max_iter=1000).fit(x, y)
        for one in golden[fold::FOLDS]:
            score = model.predict_proba(facts[one["question"]])[:, 1]
            hits = candidates[one["question"]]
            ranked[one["question"]] = [hits[int(number)] for number in np.argsort(-score, kind="stable")[: evaluate.K]]
    return ranked


def _candidates(found: Found, question: str) -> Hits:
    return list({hit.row.id: hit for hit in [*found.vector[question], *found.text[question]]}.values())


def _facts(question: str, hit: base.Hit, found: Found) -> list[float]:
    """The features of a passage. Its headings are left out: an answer's heading is the question itself, withheld from its text alone."""
    asked, body = _words(question), hit.row.text.partition("\n\n")[2]
    near, said = _place(hit, found.vector[question]), _place(hit, found.text[question])
    return [*near, *said, len(asked & _words(body)) / max(len(asked), 1), len(body) / 1000]


def _place(hit: base.Hit, hits: Hits) -> tuple[float, float]:
    """The reciprocal of a passage's rank in a search, and its score relative to the best; zeros if it was not found."""
    for place, one in enumerate(hits):
        if one.row.id == hit.row.id:
            return 1 / (place + 1), one.score / hits[0].score if hits[0].score else 0.0
    return 0.0, 0.0


@functools.cache
def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9_]{3,}", text.lower()))

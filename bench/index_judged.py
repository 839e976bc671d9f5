"""Which search method finds most, on collections with human judgements: words, meaning, both by rank, both by score.

`python -m bench index_judged --collections FOLDER`; `judged` describes the folder's content. The project's golden questions
are included. Texts are embedded by the project's own embedders and searched in LanceDB, like a bundle's.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench import judged, measure
from bench.table import Row, Table
from lastgood import errors
from lastgood.index import base, embedders, fuse, lancedb, snapshot, words
from services.helpdesk import build, evaluate, models, pins, prepare

ROOT = Path(__file__).resolve().parent.parent
POOL = evaluate.K * fuse.DEPTH
"""Documents that each search returns where more than the ten evaluated ones are fused."""
GOLDEN = "golden questions"

Hits = Sequence[base.Hit]


def _by_score(weight: float) -> Callable[[Hits, Hits], list[base.Hit]]:
    return lambda meaning, said: fuse.by_score(meaning, said, k=evaluate.K, weights=(1 - weight, weight))


WAYS: Mapping[str, Callable[[Hits, Hits], Hits]] = {
    "rank, of 10": lambda meaning, said: fuse.reciprocal_rank(meaning[: evaluate.K], said[: evaluate.K], k=evaluate.K),
    f"rank, of {POOL}": lambda meaning, said: fuse.reciprocal_rank(meaning, said, k=evaluate.K),
    "words": lambda _, said: said[: evaluate.K],
    "meaning": lambda meaning, _: meaning[: evaluate.K],
    "score, words .3": _by_score(0.3),
    "score, words .5": _by_score(0.5),
    "score, words .7": _by_score(0.7),
}
"""Of what was found by meaning and by words, best first, the ten that are given."""
OURS = "rank, of 10"
"""The helpdesk's default."""
COMPARED = ("meaning", "score, words .5", "score, words .7")
"""Whose nDCG gets an interval: one way taken instead of two, and the weights that were best with MiniLM and with word vectors."""
NDCG = "ndcg_at_10"
METRICS = {NDCG: "nDCG@10", "recall_at_10": "recall@10", "mrr_at_10": "MRR@10"}

Scores = Mapping[str, Mapping[str, Sequence[float]]]
"""Metric, way, and a figure for each query."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One collection with one embedder."""

    what: str
    scores: Scores


def run(*, quick: bool, collections: Path | None) -> list[Table]:
    """A table for each metric; one that states what is missing if there are no collections."""
    try:
        found = judged.read_all(collections)
    except errors.NotFound as error:
        missing = Row(what="not measured", unit="nDCG", ours=None, note=str(error))
        return [Table(title="Finding judged documents", ours=OURS, rows=[missing])]
    by_embedder: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        found = [_golden(Path(scratch) / "golden"), *found]
        names: tuple[models.Name, ...] = ("wordllama",) if quick else ("wordllama", "minilm")
        for name in names:
            embedder = _embedder(Path(scratch) / name, name=name)
            places = [(one, Path(scratch) / f"{name}-{number}") for number, one in enumerate(found)]
            by_embedder[name] = [_measured(one, folder, embedder=embedder, what=f"{name}, {one.name}") for one, folder in places]
    about = "; ".join(f"{one.name}: {len(one.documents):,} documents, {len(one.queries)} queries" for one in found)
    return [_table(metric, by_embedder, notes=_notes(about) if metric == NDCG else []) for metric in METRICS]


def _golden(folder: Path) -> judged.Collection:
    """The helpdesk's own questions, as a collection."""
    prepare.slice_of("5.2", out=folder, project=ROOT)
    asked = [one for one in evaluate.read_questions(folder / prepare.QUESTIONS) if one["kind"] == "golden"]
    return judged.Collection(
        name=GOLDEN,
        documents={row.id: row.text for row in build.read_rows(folder / prepare.CHUNKS)},
        queries={one["question"]: one["question"] for one in asked},
        relevant={one["question"]: frozenset(one["answers"]) for one in asked},
    )


def _embedder(folder: Path, *, name: models.Name) -> embedders.Embedder:
    models.write(folder, embedder=name)
    return embedders.load(folder / pins.EMBEDDER)


def _measured(collection: judged.Collection, folder: Path, *, embedder: embedders.Embedder, what: str) -> Measured:
    rows = [snapshot.Row(id=key, text=text) for key, text in collection.documents.items()]
    spec = {"metric": "cosine", words.KEY: "english"}
    snapshot.write(rows, embedder.embed([row.text for row in rows]), folder / "part", embedder=embedder.digest, spec=spec)
    engine = lancedb.LanceIndex(folder / "replicas")
    reader = engine.open(engine.build(folder / "part").name)
    try:
        vectors = embedder.embed(list(collection.queries.values()))
        meaning = {key: reader.search(vector, k=POOL) for key, vector in zip(collection.queries, vectors, strict=True)}
        said = {key: reader.search_text(text, k=POOL) for key, text in collection.queries.items()}
    finally:
        reader.close()
    ranked = {way: {key: fused(meaning[key], said[key]) for key in meaning} for way, fused in WAYS.items()}
    return Measured(what=what, scores=_scores(ranked, collection.relevant))


def _scores(ranked: Mapping[str, Mapping[str, Hits]], relevant: Mapping[str, frozenset[str]]) -> Scores:
    """The metrics of each way, query by query, in the order of *relevant*."""
    asked = [{"question": key, "answers": answers} for key, answers in relevant.items()]
    found = {way: [evaluate.retrieval_metrics(hits, [one]) for one in asked] for way, hits in ranked.items()}
    return {metric: {way: [one[metric] for one in each] for way, each in found.items()} for metric in METRICS}


def _table(metric: str, by_embedder: Mapping[str, Sequence[Measured]], *, notes: Sequence[str]) -> Table:
    rows = []
    for name, found in by_embedder.items():
        rows += [_row(metric, [one], what=one.what) for one in found]
        others = [one for one in found if GOLDEN not in one.what]
        rows.append(_row(metric, others, what=f"{name}, mean of {len(others)} judged"))
    return Table(title=f"Finding judged documents, {METRICS[metric]}", ours=OURS, rows=rows, notes=notes, ratios=False)


def _notes(about: str) -> list[str]:
    return [
        about,
        f"rank: reciprocal rank fusion (constant {fuse.RRF_K}) of so many documents of each search; score: of {POOL} of each, with that weight of the words.",
        f"less '{OURS}': the difference over the same queries, with a 95 % bootstrap interval over queries (of the mean: within each collection).",
        "the mean is that of the collections, each counting as one; relevance is yes or no; recall is of what ten places can hold.",
    ]


def _row(metric: str, found: Sequence[Measured], *, what: str) -> Row:
    """The mean of the collections' means; a collection counts as one, however many queries it has."""
    each = [one.scores[metric] for one in found]
    means = {way: statistics.fmean(statistics.fmean(scores[way]) for scores in each) for way in WAYS}
    note = f"less '{OURS}': " + "; ".join(f"{way} {_less(way, each)}" for way in COMPARED) if metric == NDCG else ""
    peers = {way: mean for way, mean in means.items() if way != OURS}
    return Row(what=what, unit=METRICS[metric], ours=means[OURS], peers=peers, note=note)


def _less(way: str, each: Sequence[Mapping[str, Sequence[float]]]) -> str:
    gains = [[one - ours for one, ours in zip(scores[way], scores[OURS], strict=True)] for scores in each]
    low, high = measure.interval(*gains)
    return f"{statistics.fmean(statistics.fmean(one) for one in gains):+.3f} ({low:+.3f} to {high:+.3f})"

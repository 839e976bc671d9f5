"""How good a bundle is at questions whose answer is known: the golden questions of its own corpus.

Measured is what is released: prompt, index, embedder, answerer and options together.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lastgood.llm import base as llm
from lastgood.llm import judge as judges

from . import runtime as runtimes

if TYPE_CHECKING:
    from lastgood.index import base
    from lastgood.settings import Settings

K = 10


def evaluate(
    parts: Mapping[str, Path], options: Mapping[str, Any], *, settings: Settings | None = None, judge: judges.Judge | None = None
) -> dict[str, Any]:
    """The report on the parts of a bundle (`data`, `model`, `prompt`, `index`), in plain JSON: {"metrics", "worst"}.

    Raises NotAllowed if words find nothing for nearly all golden questions. With a *judge* its metrics are among them, and `judged` says who it was and what it found worst.
    """
    runtime = runtimes.Runtime.open(parts, options, settings=settings)
    try:
        questions = read_questions(parts["data"] / "questions.jsonl")
        golden = [one for one in questions if one["kind"] == "golden"]
        runtime.check_words([one["question"] for one in golden])
        found = {one["question"]: runtime.find(one["question"]) for one in golden}
        ranks = {one["question"]: rank(found[one["question"]], one["answers"]) for one in golden}
        metrics = {**retrieval_metrics(found, golden), **answer_metrics(runtime, golden, unanswerable=_of(questions, "unanswerable"))}
        judged = judges.report(judge, cases(runtime, golden)) if judge is not None else None
    finally:
        runtime.close()
    worst = [{"question": question, "rank": place} for question, place in sorted(ranks.items(), key=lambda pair: -(pair[1] or 1000))[:10]]
    if judged is None:
        return {"metrics": metrics, "worst": worst}
    return {"metrics": {**metrics, **judged["metrics"]}, "worst": worst, "judged": judged}


def cases(runtime: runtimes.Runtime, golden: Sequence[Mapping[str, Any]]) -> Iterator[judges.Case]:
    """The answers to the golden questions, for a judge."""
    for one in golden:
        said = runtime.answer(one["question"])
        found = runtime.find(one["question"])[: len(said["sources"])]
        passages = [llm.Passage(id=hit.row.id, text=hit.row.text, score=hit.score) for hit in found]
        yield judges.Case(question=one["question"], answer=said["answer"], passages=passages)


def read_questions(file: Path) -> list[dict[str, Any]]:
    """The questions of a corpus: {"question", "kind", "answers"}."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def _of(questions: Iterable[Mapping[str, Any]], kind: str) -> list[str]:
    return [str(one["question"]) for one in questions if one["kind"] == kind]


def retrieval_metrics(found: Mapping[str, Sequence[base.Hit]], golden: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """recall@10 (capped at what can be found), nDCG@10 and the mean reciprocal rank over questions, with binary relevance."""
    recall, ndcg, reciprocal = [], [], []
    for one in golden:
        right = set(one["answers"])
        hits = [hit.row.id in right for hit in found[one["question"]][:K]]
        most = min(len(right), K)
        recall.append(sum(hits) / most)
        ideal = math.fsum(1 / math.log2(place + 2) for place in range(most))
        ndcg.append(math.fsum(1 / math.log2(place + 2) for place, hit in enumerate(hits) if hit) / ideal)
        first = next((place + 1 for place, hit in enumerate(hits) if hit), None)
        reciprocal.append(1 / first if first else 0.0)
    return {
        "questions": float(len(golden)),
        "recall_at_10": _mean(recall),
        "ndcg_at_10": _mean(ndcg),
        "mrr_at_10": _mean(reciprocal),
    }


def answer_metrics(runtime: runtimes.Runtime, golden: Sequence[Mapping[str, Any]], *, unanswerable: Sequence[str]) -> dict[str, float]:
    """Of the answers: grounded, named a right section, refused where nothing is to be said and where something is."""
    grounded, helpful, refused = [], [], []
    for one in golden:
        said = runtime.answer(one["question"])
        refused.append(said["refused"])
        helpful.append(bool({source["id"] for source in said["sources"]} & set(one["answers"])))
        if not said["refused"]:
            texts = " ".join(hit.row.text for hit in runtime.find(one["question"])[: len(said["sources"])])
            grounded.append(groundedness(said["answer"], texts))
    return {
        "grounded": _mean(grounded),
        "helpful": _mean(helpful),
        "refused_wrongly": _mean(refused),
        "refused_rightly": _mean([runtime.answer(question)["refused"] for question in unanswerable]),
    }


def groundedness(answer: str, passages: str) -> float:
    """Share of the answer's words that stand in the passages, the names of sources aside; an answer of no word is grounded."""
    words = _words(re.sub(r"\[[^\]]*\]", " ", answer))
    there = set(_words(passages))
    return sum(word in there for word in words) / len(words) if words else 1.0


def _words(text: str) -> list[str]:
    return [word for word in "".join(char.lower() if char.isalnum() else " " for char in text).split() if len(word) > 2]


def rank(hits: Sequence[base.Hit], answers: Iterable[str]) -> int | None:
    """Place of the first right section, from 1; None if it is not among the hits."""
    right = set(answers)
    return next((place + 1 for place, hit in enumerate(hits) if hit.row.id in right), None)


def _mean(values: Sequence[float | bool]) -> float:
    return sum(values) / len(values) if values else math.nan

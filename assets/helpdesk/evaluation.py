"""The quality of the parts together, on the golden questions: prompt, index, embedder, answerer and options of this run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from dagster_lastgood import Written, metadata
from lastgood.settings import Settings


class Judging(dg.Config):
    """The additional judge of the answers."""

    judge: dict[str, Any] = Field(
        default={}, description="Pin of a language model that grades the answers, see docs/rag.md; left out: nobody."
    )


def evaluation(
    corpus: Path, model: Path, prompt: Path, index: Path, options: Mapping[str, Any], config: Judging, settings: Settings
) -> Written:
    """recall@10, nDCG@10, how much of the answers comes from the passages, and whether refusals are right."""
    import os

    from lastgood.llm import base, catalog
    from lastgood.llm import judge as judges
    from services.helpdesk import evaluate

    folders = {"data": corpus, "model": model, "prompt": prompt, "index": index}
    judge = judges.ByModel(catalog.build(base.parse(config.judge), environ=os.environ)) if config.judge else None
    report = evaluate.evaluate(folders, options, settings=settings, judge=judge)
    hardest = [{"question": one["question"], "rank": one["rank"] or 0} for one in report["worst"]]
    return Written(report=report, metadata={"hardest questions": metadata.table(hardest)})

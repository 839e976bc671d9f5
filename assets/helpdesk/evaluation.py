"""How good the parts are together, at the golden questions: prompt, index, embedder, answerer and options of this run."""

from typing import Any

import dagster as dg
from pydantic import Field

from assets.helpdesk import corpus, index, model, prompt
from dagster_lastgood import metadata as show
from dagster_lastgood import parts
from lastgood import settings as settings_

KEY = parts.key("helpdesk", "evaluation")


class Judging(dg.Config):
    """Who else judges the answers."""

    judge: dict[str, Any] = Field(
        default={}, description="Pin of a language model that grades the answers, see docs/rag.md; left out: nobody."
    )


NAMES = ("corpus", "model", "prompt", "index", "config")


@dg.asset(
    key=KEY,
    deps=[corpus.KEY, model.KEY, prompt.KEY, index.KEY, parts.key("helpdesk", "config")],
    group_name="helpdesk",
    kinds={"python"},
    owners=["team:helpdesk-on-call"],
    code_version=parts.code_version("services/helpdesk/evaluate.py"),
    description="recall@10, nDCG@10, how much of the answers stands in the passages, and whether refusals are right.",
)
def evaluation(
    context: dg.AssetExecutionContext, config: Judging, settings: dg.ResourceParam[settings_.Settings]
) -> dg.MaterializeResult[Any]:
    """Ask the golden questions of the parts that this run made."""
    import os

    from lastgood.bundle import manifest as bundle
    from lastgood.bundle import store as artifacts
    from lastgood.llm import base, catalog
    from lastgood.llm import judge as judges
    from services.helpdesk import evaluate

    store = artifacts.Store(settings.store)
    made = {item.part.name: item.part for item in (parts.made(context, "helpdesk", name) for name in NAMES)}
    folders = {name: store.path(part.digest) for name, part in made.items()}
    judge = judges.ByModel(catalog.build(base.parse(config.judge), environ=os.environ)) if config.judge else None
    report = evaluate.evaluate(folders, made["config"].meta["options"], settings=settings, judge=judge)
    metadata = {
        **{f"evaluation/{name}": value for name, value in report["metrics"].items()},
        "hardest questions": show.table([{"question": one["question"], "rank": one["rank"] or 0} for one in report["worst"]]),
        parts.REPORT: dg.MetadataValue.json(report),
    }
    return dg.MaterializeResult(data_version=dg.DataVersion(bundle.sha256(bundle.canonical(report))), metadata=metadata)

"""How good the parts are together, at the golden questions: prompt, index, embedder, answerer and options of this run."""

import dagster as dg

from assets import parts, show
from assets.helpdesk import config, corpus, index, model, prompt
from lastgood import settings as settings_

KEY = parts.key("helpdesk", "evaluation")
NAMES = ("corpus", "model", "prompt", "index", "config")


@dg.asset(
    key=KEY,
    deps=[corpus.KEY, model.KEY, prompt.KEY, index.KEY, config.KEY],
    group_name="helpdesk",
    kinds={"python"},
    owners=["team:helpdesk-on-call"],
    code_version=parts.code_version("services/helpdesk/evaluate.py"),
    description="recall@10, nDCG@10, how much of the answers stands in the passages, and whether refusals are right.",
)
def evaluation(context: dg.AssetExecutionContext, settings: dg.ResourceParam[settings_.Settings]) -> dg.MaterializeResult:
    """Ask the golden questions of the parts that this run made."""
    from lastgood import artifacts, bundle
    from services.helpdesk import evaluate

    store = artifacts.Store(settings.store)
    made = {item.part.name: item.part for item in (parts.made(context, "helpdesk", name) for name in NAMES)}
    folders = {name: store.path(part.digest) for name, part in made.items()}
    report = evaluate.evaluate(folders, made["config"].meta["options"], settings=settings)
    metadata = {
        **{f"evaluation/{name}": value for name, value in report["metrics"].items()},
        "hardest questions": show.table([{"question": one["question"], "rank": one["rank"] or 0} for one in report["worst"]]),
        parts.REPORT: dg.MetadataValue.json(report),
    }
    return dg.MaterializeResult(data_version=dg.DataVersion(bundle.sha256(bundle.canonical(report))), metadata=metadata)

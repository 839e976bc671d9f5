"""The bundle: the parts of one build, frozen together, registered in the ledger with their evaluation."""

from typing import Any

import dagster as dg

from assets.helpdesk import corpus, evaluation, index, model, prompt
from dagster_lastgood import metadata as show
from dagster_lastgood import part_assets as common
from dagster_lastgood import parts
from lastgood import settings as settings_

KEY = parts.key("helpdesk", "bundle")
NAMES = ("corpus", "model", "prompt", "index", "config", "environment")


@dg.asset(
    key=KEY,
    deps=[
        corpus.KEY,
        model.KEY,
        prompt.KEY,
        index.KEY,
        parts.key("helpdesk", "config"),
        parts.key("helpdesk", "environment"),
        evaluation.KEY,
    ],
    group_name="helpdesk",
    kinds={"lastgood"},
    owners=["team:helpdesk-on-call"],
    code_version="1",
    description="The unit of release and rollback. Registering it does not change what serves; the job promote does.",
)
def bundle(context: dg.AssetExecutionContext, settings: dg.ResourceParam[settings_.Settings]) -> dg.MaterializeResult[Any]:
    """Put the parts of this run together, register the bundle, and store their evaluation with it."""
    report = parts.metadata(context, "helpdesk", "evaluation")[parts.REPORT].value
    built, before, shown = common.registered(context, "helpdesk", NAMES, report=report, settings=settings)
    then = common.newest_metrics(settings, before)
    rows = [{"metric": name, "this bundle": float(value), "stable": then.get(name)} for name, value in sorted(report["metrics"].items())]
    metadata = {
        **shown,
        **{f"evaluation/{name}": report["metrics"][name] for name in ("recall_at_10", "ndcg_at_10")},
        **{
            name: value
            for name, value in parts.metadata(context, "helpdesk", "index").items()
            if name.startswith("rows/") or name == "snapshot"
        },
        "evaluation": show.table(rows),
        "mlflow version": common.show_in_mlflow(settings, built, tags={}),
    }
    return dg.MaterializeResult(data_version=dg.DataVersion(built.id), metadata=metadata)

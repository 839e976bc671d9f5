"""The bundle: the parts of one build, frozen together, registered in the ledger with their evaluation."""

from typing import Any

import dagster as dg

from assets.flights import data, model
from dagster_lastgood import part_assets as common
from dagster_lastgood import parts
from lastgood import settings as settings_

KEY = parts.key("flights", "bundle")
NAMES = ("data", "model", "config", "environment")


@dg.asset(
    key=KEY,
    deps=[data.KEY, model.KEY, parts.key("flights", "config"), parts.key("flights", "environment")],
    group_name="flights",
    kinds={"lastgood"},
    owners=["team:flights-on-call"],
    code_version="1",
    description="The unit of release and rollback. Registering it does not change what serves; the job promote does.",
)
def bundle(context: dg.AssetExecutionContext, settings: dg.ResourceParam[settings_.Settings]) -> dg.MaterializeResult[Any]:
    """Put the parts of this run together, register the bundle, and store the evaluation of its model with it."""
    trained = parts.made(context, "flights", "model")
    report = trained.metadata[parts.REPORT].value
    built, _, shown = common.registered(context, "flights", NAMES, report=report, settings=settings)
    tags = {f"lastgood.mlflow_{name}": str(trained.provenance["mlflow"][name]) for name in ("run_id", "model_id")}
    metadata = {
        **shown,
        "evaluation": model.comparison(report),
        "model against stable": model.verdict(report),
        "mlflow version": common.show_in_mlflow(settings, built, tags=tags),
    }
    return dg.MaterializeResult(data_version=dg.DataVersion(built.id), metadata=metadata)

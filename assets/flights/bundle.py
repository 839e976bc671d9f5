"""The bundle: the parts of one build, frozen together, registered in the ledger with their evaluation."""

import time
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets import parts, show
from assets.flights import config, data, environment, model
from lastgood import settings as settings_

if TYPE_CHECKING:
    from lastgood.bundle import Bundle

KEY = parts.key("flights", "bundle")
NAMES = ("data", "model", "config", "environment")


@dg.asset(
    key=KEY,
    deps=[data.KEY, model.KEY, config.KEY, environment.KEY],
    group_name="flights",
    kinds={"lastgood"},
    owners=["team:flights-on-call"],
    code_version="1",
    description="What is released and rolled back as one. Registering it changes nothing that serves; the job promote does.",
)
def bundle(context: dg.AssetExecutionContext, settings: dg.ResourceParam[settings_.Settings]) -> dg.MaterializeResult:
    """Put the parts of this run together, register the bundle, and store the evaluation of its model with it."""
    from lastgood import bundle as bundles
    from lastgood import release

    made = {name: parts.made(context, "flights", name) for name in NAMES}
    built = bundles.of("flights", *(item.part for item in made.values()))
    report = made["model"].metadata[parts.REPORT].value
    provenance = parts.provenance(context, made, now=time.time(), project=settings.project)
    with release.open_context(settings) as ctx:
        new = release.register(ctx, built, provenance=provenance, actor="dagster", now=time.time())
        ctx.ledger.evaluate(built.id, kind="offline", report=report, actor="dagster", now=time.time())
        stable = ctx.ledger.state("flights").stable
        before = ctx.ledger.bundle(stable) if stable else None
    shown = show_in_mlflow(settings, built, made["model"])
    changes = [
        {"part": c.name, "against stable": c.change, "digest": built.parts[c.name].digest} for c in bundles.diff(before, built) if c.after
    ]
    metadata: dict[str, Any] = {
        "lastgood/bundle": built.id,
        "registered": "now" if new else "was known already",
        "parts": show.table(changes),
        "evaluation": model.comparison(report),
        "model against stable": model.verdict(report),
        "promote": dg.MetadataValue.md(f"`lastgood promote flights {bundles.short(built.id)}`"),
        "mlflow version": shown,
        "manifest": dg.MetadataValue.json(built.manifest()),
        "provenance": dg.MetadataValue.json(provenance),
    }
    return dg.MaterializeResult(data_version=dg.DataVersion(built.id), metadata=metadata)


def show_in_mlflow(settings: settings_.Settings, built: "Bundle", model_part: parts.Made) -> str:
    """Make the bundle's version in MLflow's registry and link it to its training; says so if the registry is turned off."""
    if settings.layers.registry != "mlflow":
        return "the registry layer is turned off"
    from lastgood.layers import registry

    ids = model_part.provenance["mlflow"]
    return registry.register_bundle(settings, built, tags={f"lastgood.mlflow_{name}": str(ids[name]) for name in ("run_id", "model_id")})

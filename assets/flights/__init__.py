"""What is versioned of the service `flights`: data, model, configuration and environment, frozen into one bundle."""

import dagster as dg

from assets import automation
from assets.flights import bundle, checks, config, data, environment, model, release, source

PARTS = automation.rebuilt("flights", [data.data, model.model, config.config, environment.environment, bundle.bundle])

build = dg.define_asset_job(
    "build",
    selection=dg.AssetSelection.assets(*(asset.key for asset in PARTS)),
    executor_def=dg.in_process_executor,
    description="Make all parts of flights, check them, and freeze them into a registered bundle. Changes nothing that serves.",
)


def definitions() -> dg.Definitions:
    """All that Dagster is to know of this service."""
    return dg.Definitions(
        assets=[source.source, *PARTS, release.release, release.drift],
        asset_checks=[*checks.ALL, release.checks, release.live_checks],
        jobs=[build],
    )

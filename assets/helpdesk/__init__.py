"""What is versioned of the service `helpdesk`: corpus, models, prompt, index, configuration and environment, frozen into one bundle."""

import dagster as dg

from assets import automation
from assets.helpdesk import bundle, checks, config, corpus, environment, evaluation, index, model, prompt, release, source

PARTS = automation.rebuilt(
    "helpdesk",
    [
        corpus.corpus,
        model.model,
        prompt.prompt,
        index.index,
        config.config,
        environment.environment,
        evaluation.evaluation,
        bundle.bundle,
    ],
)

build = dg.define_asset_job(
    "build_helpdesk",
    selection=dg.AssetSelection.assets(*(asset.key for asset in PARTS)),
    executor_def=dg.in_process_executor,
    description="Make all parts of helpdesk, check and evaluate them, and freeze them into a registered bundle. Changes nothing that serves.",
)


def definitions() -> dg.Definitions:
    """All that Dagster is to know of this service."""
    return dg.Definitions(
        assets=[source.source, *PARTS, release.release, release.drift],
        asset_checks=[*checks.ALL, release.checks, release.live_checks],
        jobs=[build],
    )

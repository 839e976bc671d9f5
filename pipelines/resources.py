"""What assets, jobs and sensors are handed: the settings, and an MLflow run for training.

Factories of plain objects, made when a run begins; none of them costs anything when the code location loads.
"""

from collections.abc import Iterator

import dagster as dg

from lastgood import settings as settings_

EXPERIMENT = "lastgood"


@dg.resource(description="Settings of lastgood, from lastgood.toml and LASTGOOD_* of the process that runs the step.")
def settings(_: dg.InitResourceContext) -> settings_.Settings:
    """Read anew for each run, so that a corrected lastgood.toml counts at once."""
    return settings_.load()


@dg.resource(
    required_resource_keys={"settings"},
    config_schema={
        "experiment_name": dg.Field(dg.StringSource, default_value=EXPERIMENT, description="MLflow experiment of the training runs."),
        "parent_run_id": dg.Field(dg.Noneable(str), default_value=None, description="MLflow run under which to nest this one."),
        "extra_tags": dg.Field(dg.Permissive(), default_value={}, description="More tags for the MLflow run."),
    },
    description="An MLflow run that carries the Dagster run's id, by dagster-mlflow; loaded only in runs that train.",
)
def mlflow(context: dg.InitResourceContext) -> Iterator[object]:
    """The dagster-mlflow resource, pointed at the tracking address of the settings.

    A run that ends before its training step leaves its MLflow run open, and MLflow would let the next training of
    this process write into it. So whatever is still open at the end of the Dagster run is closed as failed.
    """
    import mlflow as mlflow_
    from dagster_mlflow import mlflow_tracking

    home = context.resources.settings.home
    home.mkdir(parents=True, exist_ok=True)
    config = {**context.resource_config, "mlflow_tracking_uri": context.resources.settings.tracking_uri, "env": {}}
    try:
        yield from mlflow_tracking.resource_fn(context.replace_config(config))
    finally:
        if mlflow_.active_run() is not None:
            mlflow_.end_run(status="FAILED")


def all_resources() -> dict[str, object]:
    """The resources by the names that assets, jobs and sensors ask for."""
    return {"settings": settings, "mlflow": mlflow}

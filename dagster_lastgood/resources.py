"""The resources of assets, jobs and sensors: the settings, and an MLflow run for training.

Factories of plain objects, created when a run begins; none of them costs anything when the code location loads.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import dagster as dg

from lastgood import settings as settings_
from lastgood.settings import Settings
from lastgood.system import permissions

EXPERIMENT = "lastgood"


@dg.resource(description="Settings of lastgood, from lastgood.toml and LASTGOOD_* of the process that runs the step.")
def settings(_: dg.InitResourceContext) -> Settings:
    """Read again for each run, so that a corrected lastgood.toml takes effect at once."""
    return settings_.load()


class TrainingRun:
    """The MLflow run of one Dagster run, opened on first use. Has the attributes of the module `mlflow`.

    Opening it at once, as dagster-mlflow does, would load MLflow (seconds) and leave an open run behind in every
    Dagster run that ends before its training step, into which MLflow lets the next training of the process write.
    """

    def __init__(self, context: dg.InitResourceContext) -> None:
        self._context = context
        self._resource: Iterator[Any] | None = None
        self._mlflow: Any = None

    def __getattr__(self, name: str) -> Any:
        if self._mlflow is None:
            self._open()
        return getattr(self._mlflow, name)

    def finish(self, status: str) -> None:
        """End the MLflow run with *status* (FINISHED, FAILED); does nothing if it was never used or has ended."""
        if self._mlflow is not None and self._mlflow.active_run() is not None:
            self._mlflow.end_run(status=status)

    def _open(self) -> None:
        from dagster_mlflow import mlflow_tracking

        settings: Settings = self._context.resources.settings
        _make_experiment(settings, self._context.resource_config["experiment_name"])
        config = {**self._context.resource_config, "mlflow_tracking_uri": settings.tracking_uri, "env": {}}
        begin = cast("Callable[[dg.InitResourceContext], Iterator[Any]]", mlflow_tracking.resource_fn)
        self._resource = begin(self._context.replace_config(config))
        self._mlflow = next(self._resource)


def _make_experiment(settings: Settings, name: str) -> None:
    """With a local database, keep artifacts in the home folder: MLflow would put them into the current working folder."""
    import mlflow

    if settings.tracking_uri.startswith(("http://", "https://")):
        return
    with permissions.files():
        settings.home.mkdir(parents=True, exist_ok=True)
        client = mlflow.MlflowClient(tracking_uri=settings.tracking_uri)
        if client.get_experiment_by_name(name) is None:
            with contextlib.suppress(mlflow.MlflowException):  # another run has just created it
                client.create_experiment(name, artifact_location=(settings.home / "mlartifacts").as_uri())


@dg.resource(
    required_resource_keys={"settings"},
    config_schema={
        "experiment_name": dg.Field(dg.StringSource, default_value=EXPERIMENT, description="MLflow experiment of the training runs."),
        "parent_run_id": dg.Field(dg.Noneable(str), default_value=None, description="MLflow run under which to nest this one."),
        # The constructor of this Dagster class is untyped.
        "extra_tags": dg.Field(dg.Permissive(), default_value={}, description="More tags for the MLflow run."),  # type: ignore[no-untyped-call]
    },
    description="An MLflow run that carries the Dagster run's id, by dagster-mlflow; opened by the step that trains.",
)
def mlflow(context: dg.InitResourceContext) -> Iterator[TrainingRun]:
    """The dagster-mlflow resource at the tracking address of the settings; a run still open at the end is marked as failed."""
    run = TrainingRun(context)
    try:
        yield run
    finally:
        run.finish("FAILED")


def all_resources() -> dict[str, object]:
    """The resources by the names that assets, jobs and sensors use."""
    return {"settings": settings, "mlflow": mlflow}

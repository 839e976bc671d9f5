"""The job `drift_report`: Evidently's report on a period, as a file, in Dagster and in MLflow. It changes nothing that serves.

A schedule for each service launches it once a day, and the sensor `drift_watch` when an alarm begins.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from dagster_lastgood import drift_assets, hooks, project
from dagster_lastgood import metadata as asset_metadata
from lastgood import errors
from lastgood import settings as settings_
from lastgood.settings import Settings
from lastgood.system import clock

if TYPE_CHECKING:
    from lastgood.drift.watch import DriftWatch
    from lastgood.release import Context

NAME = "drift_report"


class Stretch(dg.Config):
    """The period of the report."""

    service: str = Field(description="Service to report on: the rows that its stable bundle answered.")
    since: float | None = Field(
        default=None, description="Beginning, in Unix seconds. Default: the period that the settings give (drift.report_hours)."
    )
    until: float | None = Field(default=None, description="End, in Unix seconds. Default: now.")


@dg.op(
    description="Evidently's report on live traffic compared with the stable bundle's reference; logged to MLflow and shown on <service>/drift.",
)
def report(context: dg.OpExecutionContext, config: Stretch, settings: dg.ResourceParam[Settings], mlflow: dg.ResourceParam[Any]) -> None:
    """Write the report and report its location. No traffic, or no watched column, is a result and not an error."""
    from lastgood import release
    from lastgood.drift import watch as drift_watch

    with release.open_context(settings, read_only=True) as ctx:
        until = clock.now() if config.until is None else config.until
        since = until - settings.drift.report_hours * 3600 if config.since is None else config.since
        what = drift_watch.watch_of_service(ctx, config.service)
        if what is None:
            context.add_output_metadata({"evidently": f"left out: drift is not watched on {config.service!r}"})
            return
        try:
            found = written(ctx, what, since=max(since, what.since), until=until, settings=settings, mlflow=mlflow)
        except errors.NothingToDo as error:
            context.add_output_metadata({"evidently": f"left out: {error}"})
            return
        except errors.LastgoodError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from None
    context.add_output_metadata(found)
    context.log_event(dg.AssetObservation(drift_assets.key(config.service), metadata=found, description="Evidently's report"))


def written(ctx: "Context", what: "DriftWatch", *, since: float, until: float, settings: Settings, mlflow: Any) -> dict[str, Any]:
    """Metadata of the report on *since* to *until* (Unix seconds), once it is in the home folder and in MLflow. Raises LastgoodError."""
    from lastgood.drift import evidently_report as evidently

    snapshot = evidently.run(ctx, what, since=since, until=until)
    files = evidently.archive(settings, what, snapshot, since=since, until=until)
    values = evidently.values(snapshot)
    distances = values["distances"]
    metadata: dict[str, Any] = {
        "evidently": dg.MetadataValue.path(files[0]),
        "evidently as JSON": dg.MetadataValue.path(files[1]),
        "lastgood/bundle": what.bundle,
        "columns that Evidently calls drifted": values["drifted"],
        **{f"quality/{name}": value for name, value in values["quality"].items()},
        "mlflow run": _logged(mlflow, what, files=files, values=values, settings=settings),
    }
    if distances:
        columns = [{"name": name, "distance": value, "threshold": None, "outcome": "pass"} for name, value in distances.items()]
        metadata["drift by feature"] = asset_metadata.pictures({"drift by feature": drift_assets.bars(columns[: drift_assets.SHOWN])})
    return metadata


def _logged(
    mlflow: Any, what: "DriftWatch", *, files: Sequence[Path], values: dict[str, Any], settings: Settings
) -> dg.MetadataValue | str:
    """The link to the MLflow run that has the report. If MLflow is unavailable, only the link is missing."""
    try:
        mlflow.set_tags({"lastgood.kind": "drift report", "lastgood.service": what.service, "lastgood.bundle": what.bundle})
        named = {f"distance.{name}": value for name, value in values["distances"].items()}
        mlflow.log_metrics({"drifted_columns": values["drifted"], **values["quality"], **{_metric(n): v for n, v in named.items()}})
        for file in files:
            mlflow.log_artifact(str(file), "drift")
        run = mlflow.active_run().info
    except Exception as error:  # noqa: BLE001  # MLflow raises what its store raises
        return f"left out: {error}"
    return asset_metadata.mlflow_run(settings.tracking_uri, experiment_id=run.experiment_id, run_id=run.run_id)


def _metric(name: str) -> str:
    """*name* reduced to what MLflow accepts as the name of a metric."""
    return "".join(letter if letter.isalnum() or letter in "_-./ " else "_" for letter in name)


@dg.job(
    name=NAME,
    executor_def=dg.in_process_executor,
    hooks={hooks.finish_mlflow_run, hooks.fail_mlflow_run},
    description='Evidently on live traffic: {"ops": {"report": {"config": {"service": "flights"}}}}.',
)
def drift_report_job() -> None:
    """Report on a stretch of time."""
    report()


def schedules(services: Sequence[str]) -> list[dg.ScheduleDefinition]:
    """A running schedule for each of *services*; skips if nothing is watched. A broken lastgood.toml must not keep `rollback` from loading."""
    known = project.settings()
    cron = (known.drift if known else settings_.DriftSettings()).report_cron
    return [_schedule(service, cron) for service in services]


def _schedule(service: str, cron: str) -> dg.ScheduleDefinition:
    def asked(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        from lastgood import release
        from lastgood.drift import watch as drift_watch

        try:
            with release.open_context(settings_.load(), read_only=True) as ctx:
                watched = ctx.ledger.newest(service) is not None and drift_watch.watch_of_service(ctx, service) is not None
        except errors.LastgoodError as error:
            return dg.SkipReason(str(error))
        if not watched:
            return dg.SkipReason(f"drift is not watched on {service!r}")
        key = context.scheduled_execution_time.isoformat()
        return dg.RunRequest(
            run_key=key, run_config={"ops": {"report": {"config": {"service": service}}}}, tags={"lastgood/service": service}
        )

    return dg.ScheduleDefinition(
        name=f"{service}_{NAME}",
        cron_schedule=cron,
        job=drift_report_job,
        execution_fn=asked,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Evidently's report on live traffic of {service}.",
    )

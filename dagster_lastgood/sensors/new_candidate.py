"""Proposes a bundle that was built because of new data: its phases and gates decide."""

from collections.abc import Iterator

import dagster as dg

from dagster_lastgood import automation
from lastgood.settings import Settings

PROMOTE = "promote"
"""The job that a tick requests."""


def new_candidate(job: dg.JobDefinition) -> dg.SensorDefinition:
    """The sensor; *job* is PROMOTE."""
    return dg.run_status_sensor(
        name="new_candidate",
        run_status=dg.DagsterRunStatus.SUCCESS,
        request_job=job,
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Proposes the bundle of a run that new data launched (sensor new_data). Other runs are ignored.",
    )(propose)


def propose(context: dg.RunStatusSensorContext, settings: dg.ResourceParam[Settings]) -> dg.SensorResult | dg.SkipReason:
    """Request the release of each bundle that the run made and that is not serving already."""
    reason = context.dagster_run.tags.get(automation.CANDIDATE)
    if reason is None:
        return dg.SkipReason("no candidate was requested")
    made = dict(_bundles(context))
    asked = [
        _request(context, service, bundle, reason=reason) for service, bundle in made.items() if not _serves(settings, service, bundle)
    ]
    if not asked:
        return dg.SkipReason("the bundle that was built already serves" if made else "no bundle was built")
    return dg.SensorResult(run_requests=asked)


def _bundles(context: dg.RunStatusSensorContext) -> Iterator[tuple[str, str]]:
    """Service and bundle id of each bundle that the run registered."""
    for entry in context.instance.all_logs(context.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
        event = entry.asset_materialization
        if event is not None and event.asset_key.path[-1] == "bundle":
            yield event.asset_key.path[0], str(event.metadata["lastgood/bundle"].value)


def _serves(settings: Settings, service: str, bundle: str) -> bool:
    from lastgood import release

    with release.open_context(settings, read_only=True) as ctx:
        return ctx.ledger.state(service).stable == bundle


def _request(context: dg.RunStatusSensorContext, service: str, bundle: str, *, reason: str) -> dg.RunRequest:
    config = {"service": service, "bundle": bundle, "reason": f"{reason} (run {context.dagster_run.run_id[:8]})", "actor": "dagster"}
    return dg.RunRequest(
        run_key=f"{service}/{context.dagster_run.run_id}",
        job_name=PROMOTE,
        run_config={"ops": {PROMOTE: {"config": config}}},
        tags={"lastgood/service": service},
    )

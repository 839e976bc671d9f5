"""The code location `lastgood`: everything Dagster can see, put together from its parts.

Loading this module must stay cheap: a `dagster job launch` imports it twice before the first line of a rollback
runs. So nothing reachable from here imports an ML library at module level; `tests/pipelines` asserts it.
"""

from collections.abc import Mapping

import dagster as dg

import assets
import sensors
from pipelines import drift, drift_report, home, hooks, jobs, resources, retrain

DRIFT_JOBS = (drift.evaluate_rollback_job, drift_report.drift_report_job, retrain.retrain_job)


def build_definitions(resource_overrides: Mapping[str, object] | None = None) -> dg.Definitions:
    """All services' assets and checks with the jobs, sensors and resources they share; tests replace resources by name."""
    services = assets.definitions()
    return dg.Definitions(
        assets=[hooks.closing_mlflow_run(asset) for asset in services.assets or ()],
        asset_checks=services.asset_checks,
        jobs=[*(services.jobs or ()), *jobs.all_jobs(), *DRIFT_JOBS],
        sensors=sensors.all_sensors(drift_jobs=DRIFT_JOBS, promote=jobs.promote_job),
        schedules=drift_report.schedules(),
        resources={**resources.all_resources(), **(resource_overrides or {})},
        executor=dg.in_process_executor,
    )


home.warn_if_runs_would_wait()
defs = build_definitions()

"""Everything of lastgood that a code location shows, put together for the services that it names.

Loading must stay cheap: a `dagster job launch` imports the code location twice before the first line of a rollback runs. So
nothing reachable from here imports an ML library at module level.
"""

import warnings
from collections.abc import Mapping, Sequence

import dagster as dg

from dagster_lastgood import automation, hooks, resources
from dagster_lastgood.jobs import drift_report, evaluate_rollback, retrain, verbs
from dagster_lastgood.sensors import drift_watch, model_liveness, new_candidate, release_mirror, rollout_mirror
from dagster_lastgood.service import Service

warnings.filterwarnings("ignore", category=dg.BetaWarning)  # what of Dagster may change, the lock file holds still


def build_definitions(
    services: Sequence[Service],
    *,
    sensors: Sequence[dg.SensorDefinition] = (),
    resource_overrides: Mapping[str, object] | None = None,
) -> dg.Definitions:
    """All assets and checks of *services*, with the jobs, sensors, schedules and resources that they share.

    *sensors* are more of your own; *resource_overrides* replace resources by name (`settings`, `mlflow`). To add it to a code location that has more, merge:
    `dg.Definitions.merge(mine, build_definitions([...]))`.
    """
    own = dg.Definitions.merge(*(service.definitions() for service in services)) if services else dg.Definitions()
    shared = shared_definitions(services, builds=lambda name: build_job(made, services, name))
    made = dg.Definitions(
        assets=[hooks.closing_mlflow_run(asset) for asset in own.assets or ()],
        asset_checks=own.asset_checks,
        jobs=[*(own.jobs or ()), *(shared.jobs or ())],
        sensors=[*(shared.sensors or ()), *sensors],
        schedules=shared.schedules,
        resources={**resources.all_resources(), **(resource_overrides or {})},
        executor=dg.in_process_executor,
    )
    return made


def shared_definitions(services: Sequence[Service], *, builds: retrain.Builds) -> dg.Definitions:
    """The jobs, sensors and schedules that *services* share; *builds* gives the build job of a service when it is needed."""
    names = [service.name for service in services]
    expected = {service.name: service.expectations for service in services if service.expectations is not None}
    drift_jobs = (evaluate_rollback.evaluate_rollback_job, drift_report.drift_report_job, retrain.retrain_job(builds))
    return dg.Definitions(
        jobs=[*verbs.all_jobs(), *drift_jobs],
        sensors=[
            release_mirror.release_mirror(names),
            rollout_mirror.rollout_mirror(names),
            model_liveness.model_liveness(names),
            drift_watch.drift_watch(names, jobs=drift_jobs, expected=expected),
            automation.new_data(names),
            new_candidate.new_candidate(verbs.promote_job),
        ],
        schedules=drift_report.schedules(names),
    )


def build_job(definitions: dg.Definitions, services: Sequence[Service], name: str) -> dg.JobDefinition | None:
    """The job of *definitions* that builds the service *name*; None if it has none."""
    build = next((service.build for service in services if service.name == name), None)
    return definitions.resolve_job_def(build) if build else None

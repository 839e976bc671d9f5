"""The complete lastgood definitions of a code location, for the services that it names.

Loading must stay cheap: a `dagster job launch` imports the code location twice before the first line of a rollback runs. So
nothing reachable from here imports an ML library at module level.
"""

import warnings
from collections.abc import Mapping, Sequence

import dagster as dg

from dagster_lastgood import automation, resources
from dagster_lastgood.jobs import drift_report, evaluate_rollback, retrain, verbs
from dagster_lastgood.sensors import drift_watch, model_liveness, new_candidate, release_mirror, rollout_mirror
from dagster_lastgood.service import Service

warnings.filterwarnings("ignore", category=dg.BetaWarning)  # Dagster's beta APIs may change; the lock file pins them


def build_definitions(
    services: Sequence[Service],
    *,
    sensors: Sequence[dg.SensorDefinition] = (),
    resource_overrides: Mapping[str, object] | None = None,
) -> dg.Definitions:
    """All assets and checks of *services*, with the jobs, sensors, schedules and resources that they share.

    *sensors* are additional ones of your own; *resource_overrides* replace resources by name (`settings`, `mlflow`). To add the result to a
    code location that has more, merge: `dg.Definitions.merge(mine, build_definitions([...]))`.
    """
    own = [service.definitions() for service in services]
    more = dg.Definitions(sensors=sensors, executor=dg.in_process_executor)
    return dg.Definitions.merge(*own, shared_definitions(services, resource_overrides=resource_overrides), more)


def shared_definitions(services: Sequence[Service], *, resource_overrides: Mapping[str, object] | None = None) -> dg.Definitions:
    """The jobs, sensors, schedules and resources shared by *services*."""
    with_ours = {**resources.all_resources(), **(resource_overrides or {})}
    names = [service.name for service in services]
    expected = {service.name: service.expectations for service in services if service.expectations is not None}
    drift_jobs = (
        evaluate_rollback.evaluate_rollback_job,
        drift_report.drift_report_job,
        retrain.retrain_job(lambda name: build_job(services, name, resources=with_ours)),
    )
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
        resources=with_ours,
    )


def build_job(services: Sequence[Service], name: str, *, resources: Mapping[str, object]) -> dg.JobDefinition | None:
    """The job that builds the service *name*, with these *resources*; None if it has none."""
    service = next((service for service in services if service.name == name), None)
    if service is None or not service.job:
        return None
    return dg.Definitions.merge(service.definitions(), dg.Definitions(resources=resources)).resolve_job_def(service.job)

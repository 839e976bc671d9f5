"""When something happens: each sensor asks one question and answers with events, a run, or a readable reason to skip."""

from collections.abc import Sequence

import dagster as dg

from sensors import drift, liveness, release, rollout


def all_sensors(*, drift_jobs: Sequence[dg.JobDefinition]) -> list[dg.SensorDefinition]:
    """Every sensor of the code location; *drift_jobs* are those that the watch for drift may ask for."""
    return [release.release_mirror, rollout.rollout_mirror, liveness.model_liveness, drift.drift_watch(drift_jobs)]

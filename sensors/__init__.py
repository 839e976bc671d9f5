"""When something happens: each sensor asks one question and answers with events, a run, or a readable reason to skip."""

import dagster as dg

from sensors import drift, liveness, release, rollout


def all_sensors() -> list[dg.SensorDefinition]:
    """Every sensor of the code location."""
    return [release.release_mirror, rollout.rollout_mirror, liveness.model_liveness, drift.drift_watch]

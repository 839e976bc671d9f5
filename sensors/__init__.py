"""When something happens: each sensor asks one question and answers with events, a run, or a readable reason to skip."""

from collections.abc import Sequence

import dagster as dg

from assets import automation
from sensors import candidate, drift, liveness, release, rollout


def all_sensors(*, drift_jobs: Sequence[dg.JobDefinition], promote: dg.JobDefinition) -> list[dg.SensorDefinition]:
    """Every sensor of the code location; *drift_jobs* are those that the watch for drift may ask for, *promote* what proposes a bundle."""
    return [
        release.release_mirror,
        rollout.rollout_mirror,
        liveness.model_liveness,
        drift.drift_watch(drift_jobs),
        automation.new_data(),
        candidate.new_candidate(promote),
    ]

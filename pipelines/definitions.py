"""The code location `lastgood`: the services of this project, shown by dagster_lastgood.

Loading this module must stay cheap: a `dagster job launch` imports it twice before the first line of a rollback runs.
"""

from collections.abc import Mapping

import dagster as dg

import assets
import dagster_lastgood
import sensors
from dagster_lastgood import home


def build_definitions(resource_overrides: Mapping[str, object] | None = None) -> dg.Definitions:
    """What Dagster shows; tests replace resources by name."""
    return dagster_lastgood.build_definitions(assets.services(), sensors=sensors.SENSORS, resource_overrides=resource_overrides)


home.warn_if_runs_would_wait()
defs = build_definitions()

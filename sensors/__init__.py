"""Sensors of this project's own, beside those that dagster_lastgood brings for its services. There are none so far."""

from collections.abc import Sequence

import dagster as dg

SENSORS: Sequence[dg.SensorDefinition] = ()

"""Shared by the two mirrors of the ledger: a sensor of `<service>/release` whose cursor holds what was reported for each service."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg

from dagster_lastgood import parts
from lastgood import errors
from lastgood.settings import Settings

Event = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation
Positions = Mapping[str, Any]
"""The last reported position, by service."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The result of a tick: events, and the positions after them. Without events it skips, with `words` as the reason."""

    events: Sequence[Event] = ()
    positions: Positions = dataclasses.field(default_factory=dict)
    words: str = ""


Look = Callable[[dg.SensorEvaluationContext, Settings, Sequence[str], Positions], Told]
"""Observes the services, given the positions in the cursor."""


def mirror(
    name: str, services: Sequence[str], look: Look, *, description: str, skips: tuple[type[errors.LastgoodError], ...]
) -> dg.SensorDefinition:
    """The sensor *name*, which reports what *look* finds; errors of the kinds *skips* become a reason to skip."""

    @dg.sensor(
        name=name,
        asset_selection=dg.AssetSelection.assets(*map(parts.release_key, services)),
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=description,
    )
    def mirror(context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]) -> dg.SensorResult | dg.SkipReason:
        before: Positions = json.loads(context.cursor or "{}")
        try:
            told = look(context, settings, services, before)
        except skips as error:
            return dg.SkipReason(f"the ledger cannot be read: {error}")
        if not told.events:
            return dg.SkipReason(told.words)
        return dg.SensorResult(asset_events=told.events, cursor=json.dumps({**before, **told.positions}))

    return mirror


def shown(event: dg.AssetMaterialization | dg.AssetObservation | None) -> parts.Metadata:
    """The metadata of a stored event, which may be newer than the cursor: the daemon stores events first, and may die in between."""
    return event.metadata if event else {}

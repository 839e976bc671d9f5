"""A release in progress: observations of `<service>/release` with figures that the UI plots, and its gates as checks.

The controller measures, decides and acts; this sensor only shows what is in the ledger. An observation has the state of the release
and each gate's verdict; the check of a gate is reported when its verdict changes, even while only a trigger
watches the stable bundle.
"""

import dataclasses
import threading
from collections.abc import Sequence

import dagster as dg

from dagster_lastgood import parts
from dagster_lastgood.sensors import mirror, observation, pictures
from lastgood import errors
from lastgood.analysis import follow
from lastgood.settings import Settings
from lastgood.system import clock

EVIDENCE = follow.Evidence()
"""The measurements that this process has read; only the tick that holds READING touches it."""
READING = threading.Lock()
"""Dagster abandons a tick after 60 s and starts the next one while the body of the first is still running."""


def rollout_mirror(services: Sequence[str]) -> dg.SensorDefinition:
    """The sensor for *services*."""
    return mirror.mirror(
        "rollout_mirror",
        services,
        _look,
        description="Shows the figures and gates of a release in progress as observations and checks of <service>/release.",
        skips=(errors.LastgoodError,),
    )


def _look(context: dg.SensorEvaluationContext, settings: Settings, services: Sequence[str], told: mirror.Positions) -> mirror.Told:
    """The changes since the positions in the cursor: at most one observation per service."""
    if not READING.acquire(blocking=False):
        return mirror.Told(words="the tick before this one is still reading the measurements")
    words: dict[str, str] = {}
    try:
        news = _news(context, settings, services, told, words=words)
    finally:
        READING.release()
    return mirror.Told(
        events=[event for one in news.values() for event in one.events()],
        positions={service: one.position() for service, one in news.items()},
        words="; ".join(f"{service}: {said}" for service, said in words.items()) or "no service has been released yet",
    )


def _news(
    context: dg.SensorEvaluationContext,
    settings: Settings,
    services: Sequence[str],
    told: mirror.Positions,
    *,
    words: dict[str, str],
) -> dict[str, observation.RolloutSnapshot]:
    """The services with something to report; the status of the others is added to *words*."""
    from lastgood import release

    news: dict[str, observation.RolloutSnapshot] = {}
    with release.open_context(settings, read_only=True) as ctx:
        for service in services:
            if not ctx.ledger.newest(service):
                continue
            try:
                found = observation.set_up(ctx, service, EVIDENCE, told=_last_told(context, service, told), now=clock.now())
            except (errors.Damaged, errors.NotFound, errors.UsageError) as error:
                words[service] = str(error)  # the other services continue
                continue
            words[service] = found.words()
            if found.news:
                extra = pictures.rollout_pictures(ctx, service, found.ended) if found.ended else {}
                news[service] = dataclasses.replace(found, extra=extra)
    return news


def _last_told(context: dg.SensorEvaluationContext, service: str, told: mirror.Positions) -> observation.Position:
    """The newer of the cursor and Dagster's newest observation."""
    found = context.instance.fetch_observations(parts.release_key(service), limit=1).records
    held = mirror.shown(found[0].asset_observation if found else None)
    kept: observation.Position = held[observation.POSITION].value if observation.POSITION in held else observation.START
    return max(told.get(service, observation.START), kept, key=lambda position: position["at"])

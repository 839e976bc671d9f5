"""Hosted models are retired: several times a day the providers are asked about the serving bundles and the rollback targets."""

import functools
import os
from collections.abc import Sequence

import dagster as dg

from lastgood.settings import Settings
from lastgood.system import clock


def model_liveness(services: Sequence[str]) -> dg.SensorDefinition:
    """The sensor for *services*."""

    @dg.sensor(
        name="model_liveness",
        minimum_interval_seconds=6 * 3600,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks providers whether the pinned models still exist; records the answers, and pages models that end.",
    )
    def liveness(context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]) -> dg.SkipReason:
        return _checked(settings, services)

    return liveness


def _checked(settings: Settings, services: Sequence[str]) -> dg.SkipReason:
    """One sentence with the result for each service."""
    from lastgood import errors, release
    from lastgood.model_retirement import check as liveness
    from lastgood.model_retirement import providers as models

    ask = functools.partial(models.ask_provider, environ=os.environ)
    told = []
    try:
        with release.open_context(settings, create=False) as ctx:
            for service in services:
                if ctx.ledger.newest(service):
                    report = liveness.check(ctx, service, ask=ask, now=clock.now(), actor="dagster")
                    told += [f"{service}: {one.role} {', '.join(one.models)} is {one.lifetime.status}" for one in report.checked]
    except errors.NotFound:  # nothing was ever built here, and looking must not create a ledger
        return dg.SkipReason("no bundle uses a hosted model")
    except errors.LastgoodError as error:
        return dg.SkipReason(f"cannot check the models: {error}")
    return dg.SkipReason("; ".join(told) or "no bundle uses a hosted model")

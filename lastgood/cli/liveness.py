"""`lastgood liveness`: whether the hosted models of a service's bundles still exist, and until when."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

import click

from lastgood.bundle import manifest
from lastgood.cli import common
from lastgood.system import clock, text

if TYPE_CHECKING:
    from lastgood.model_retirement.check import Report

WARN_DAYS = 30.0
"""As in `lastgood.model_retirement.providers`, which is not imported before it is needed."""


@click.command()
@common.service_argument
@click.option("--offline", is_flag=True, help="Ask no provider; use only the dates that come with this version.")
@click.option(
    "--warn-days",
    type=common.Number(min=0, max=36_525),
    default=WARN_DAYS,
    show_default=True,
    help="Number of days before its end from which a model counts as dying.",
)
@click.option("--actor", default=None, help="Who makes this change (default: LASTGOOD_ACTOR or your user name).")
@common.json_option
def liveness(service: str, offline: bool, warn_days: float, actor: str | None, as_json: bool) -> int:
    """Ask providers whether the hosted models that SERVICE's bundles use still exist, and until when.

    The answers are recorded: a bundle whose model is gone is not a rollback target. Exit code 1 if the serving bundle uses
    a model that is dying or gone, or if no safe rollback target is left; in that case one page is sent.
    """
    from lastgood.model_retirement import check as checks
    from lastgood.model_retirement import providers as models

    ask = None if offline else functools.partial(models.ask_provider, environ=os.environ)
    with common.context(service=service) as ctx:
        common.known_state(ctx, service)
        report = checks.check(ctx, service, ask=ask, now=clock.now(), warn_days=warn_days, actor=common.actor(actor))
    value = {
        "schema": "lastgood.liveness/v1",
        "service": service,
        "ok": report.ok,
        "risk": report.risk,
        "bundles": [one.to_json() for one in report.checked],
    }
    common.emit(value, as_json=as_json, text=lambda: _text(report))
    return 0 if report.ok else 1


def _text(report: Report) -> str:
    rows = [
        (manifest.short(one.bundle), one.role, ", ".join(one.models), one.lifetime.status, _day(one.lifetime.ends_at), one.lifetime.why)
        for one in report.checked
    ]
    if not rows:
        return "neither the serving bundle nor any rollback target uses a hosted model"
    told = common.table(("BUNDLE", "ROLE", "MODELS", "STATUS", "ENDS", "WHY"), rows)
    return told if report.risk is None else f"{told}\n! no safe rollback target is left; release a bundle whose model is still offered"


def _day(at: float | None) -> str:
    return "-" if at is None else text.day(at)

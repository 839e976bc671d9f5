"""The verb that checks whether pages arrive, before one matters."""

from __future__ import annotations

import time

import click

from lastgood import errors
from lastgood.cli import common
from lastgood.release import convergence
from lastgood.system import clock

LOOK_EVERY_S = 0.2


@click.command()
@common.service_argument
@click.option(
    "--severity",
    type=click.Choice(["critical", "warning", "info"]),
    default="warning",
    show_default=True,
    help="Severity of the test page.",
)
@click.option("--timeout", "timeout_s", default=15.0, show_default=True, type=common.seconds(), help="Seconds to wait for delivery.")
@common.json_option
def test_page(service: str, severity: str, timeout_s: float, as_json: bool) -> int:
    """Send a test page about SERVICE over every configured channel and wait for its delivery.

    Exit code: 0 once every channel has delivered it, 1 if one has not within --timeout; delivery is then retried like that of any page.
    """
    from lastgood.paging import channels

    with common.context(service=service) as ctx:
        newest = ctx.ledger.newest(service)
        if not newest:
            raise errors.NotFound(
                f"{service!r} has never been released; services in this ledger: {', '.join(ctx.ledger.services()) or 'none'}"
            )
        if convergence.controller_record(ctx.settings) is None:
            raise errors.Unavailable("the controller, which delivers pages, is not running; start it with 'lastgood up'")
        ways = [channel.name for channel in channels.configured(ctx.settings)]
        now = clock.now()
        key = f"test-{now:.0f}"
        summary = f"{service}: a test page by {common.actor(None)}; nothing is wrong"
        ctx.ledger.page(service, revision=newest, key=key, severity=severity, summary=summary, body={}, now=now)
        while True:
            page = next(one for one in ctx.ledger.pages(service) if one.key == key)
            tried = {way: page.deliveries.get(way) for way in ways}
            arrived = all(one is not None and one.delivered_at is not None for one in tried.values())
            if arrived or clock.now() >= now + timeout_s:
                break
            time.sleep(LOOK_EVERY_S)
        told = {
            way: "not tried yet" if one is None else "has it" if one.delivered_at is not None else one.error for way, one in tried.items()
        }
        value = {"schema": "lastgood.test-page/v1", "service": service, "key": key, "arrived": arrived, "channels": told}
        common.emit(value, as_json=as_json, text=lambda: "\n".join(f"  {way:<12} {said}" for way, said in told.items()))
        return 0 if arrived else 1

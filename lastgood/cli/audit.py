"""`lastgood audit`: prove that the release log is whole, and hand it out."""

from __future__ import annotations

import json

import click

from lastgood.cli import common, look


@click.group()
def audit() -> None:
    """Verify the audit trail, or export it."""


@audit.command()
@common.service_argument
@common.json_option
def verify(service: str, as_json: bool) -> int:
    """Recompute the hash chain, every row's digest, and the signed checkpoints."""
    from lastgood.ledger import audit as trail

    with common.context(read_only=True, service=service) as ctx:
        report = trail.verify(ctx.ledger, service, ctx.settings.keys)
        value = {
            "schema": "lastgood.audit/v1",
            "service": service,
            "ok": report.ok,
            "entries": report.entries,
            "head": report.head,
            "problems": list(report.problems),
        }
        lines = [f"{service}: {report.entries} entries, head {report.head}: {'whole' if report.ok else 'DAMAGED'}"]
        lines += [f"  ! {problem}" for problem in report.problems]
        common.emit(value, as_json=as_json, text=lambda: "\n".join(lines))
        return 0 if report.ok else 1


@audit.command()
@common.service_argument
@click.option("--from", "since", default=None, help="Not before this time (ISO 8601).")
@click.option("--to", "until", default=None, help="Not after this time (ISO 8601).")
@common.json_option
def export(service: str, since: str | None, until: str | None, as_json: bool) -> int:  # noqa: ARG001  # always JSON lines
    """Print every entry as one JSON line: who, what, when, why, and the hash that chains it."""
    from lastgood.ledger import audit as trail

    begin = look.parse_time(since) if since is not None else None
    end = look.parse_time(until) if until is not None else None
    with common.context(read_only=True, service=service) as ctx:
        for entry in trail.export(ctx.ledger, service, since=begin, until=end):
            click.echo(json.dumps(entry, default=str))
    return 0

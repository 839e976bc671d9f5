"""`lastgood audit`: prove that the release log is intact, and export it."""

from __future__ import annotations

import json

import click

from lastgood.cli import common
from lastgood.cli import inspect as look


@click.group()
def audit() -> None:
    """Verify or export the audit trail."""


@audit.command()
@common.service_argument
@common.json_option
def verify(service: str, as_json: bool) -> int:
    """Recompute the hash chain and every row's digest, and check the signed checkpoints. Exit code 1 unless the whole trail is proven intact."""
    from lastgood.ledger import audit as ledger_audit

    with common.context(read_only=True, service=service) as ctx:
        report = ledger_audit.verify(ctx.ledger, service, ctx.settings.keys)
        whole = report.ok and not report.uncovered
        problems = [*report.problems, *_not_covered(report.uncovered, service)]
        value = {
            "schema": "lastgood.audit/v1",
            "service": service,
            "ok": whole,
            "entries": report.entries,
            "head": report.head,
            "anchored": report.anchored,
            "uncovered": report.uncovered,
            "problems": problems,
        }
        verdict = "intact" if whole else "DAMAGED" if report.problems else "NOT PROVEN intact"
        lines = [f"{service}: {report.entries} entries, head {report.head}: {verdict}"]
        lines += [f"  ! {problem}" for problem in problems]
        common.emit(value, as_json=as_json, text=lambda: "\n".join(lines))
        return 0 if whole else 1


def _not_covered(first: int, service: str) -> list[str]:
    told = (
        f"entries before {first} are not covered by a checkpoint: the checkpoints of {service!r} here were started when those entries "
        "already existed, so entries removed before then would go unnoticed; restore the older file from a backup, or verify on the machine that signs"
    )
    return [told] if first else []


@audit.command()
@common.service_argument
@click.option("--from", "since", default=None, help="Only entries at or after this time (ISO 8601).")
@click.option("--to", "until", default=None, help="Only entries at or before this time (ISO 8601).")
@common.json_option
def export(service: str, since: str | None, until: str | None, as_json: bool) -> int:  # noqa: ARG001  # always JSON lines
    """Print every entry as one JSON line: who, what, when, why, and the hash that chains it."""
    from lastgood.ledger import audit as ledger_audit

    begin = look.parse_time(since) if since is not None else None
    end = look.parse_time(until) if until is not None else None
    with common.context(read_only=True, service=service) as ctx:
        for entry in ledger_audit.export(ctx.ledger, service, since=begin, until=end):
            click.echo(json.dumps(entry, default=str))
    return 0

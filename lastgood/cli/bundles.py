"""`lastgood bundle`: list, verify, export and import bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lastgood import ledger
from lastgood.bundle import manifest
from lastgood.cli import common
from lastgood.cli import inspect as look
from lastgood.core.state import State
from lastgood.system import clock


@click.group()
def bundle() -> None:
    """List, verify, export and import bundles."""


@bundle.command(name="list")
@common.service_argument
@click.option("--limit", type=common.count(), default=20, show_default=True, help="Show at most this many bundles.")
@common.json_option
def list_(service: str, limit: int, as_json: bool) -> int:
    """List the bundles of SERVICE, newest first."""
    with common.context(read_only=True, service=service) as ctx:
        rows = ctx.ledger.bundles(service, limit=limit)
        state = ctx.ledger.state(service, about=[row.bundle.id for row in rows])
        value = [_entry(row, state) for row in rows]
        lines = [
            (v["short"], common.moment(v["registered_at"]), f"{v['size']:,}", ",".join(v["aliases"]) or v["mark"] or "-") for v in value
        ]
        body = {"schema": "lastgood.bundles/v1", "service": service, "bundles": value}
        common.emit(body, as_json=as_json, text=lambda: common.table(("BUNDLE", "REGISTERED", "BYTES", "IS"), lines))
        return 0


def _entry(row: ledger.BundleRow, state: State) -> dict[str, Any]:
    digest = row.bundle.id
    mark = state.marks.get(digest)
    return {
        "id": digest,
        "short": manifest.short(digest),
        "registered_at": row.registered_at,
        "size": sum(part.size for part in row.bundle.parts.values()),
        "aliases": [alias for alias in ("stable", "candidate", "previous") if getattr(state, alias) == digest],
        "mark": mark.kind if mark else None,
    }


bundle.add_command(look.verify, "verify")


@bundle.command()
@common.service_argument
@common.bundle_argument("which")
@click.option("--out", type=common.OutFile(), default=None, help="File to write (default: SERVICE-SHORTID.lastgood.tar).")
@common.json_option
def export(service: str, which: str, out: Path | None, as_json: bool) -> int:
    """Write a bundle and all its content to one signed file."""
    from lastgood.bundle import archive

    with common.context(service=service) as ctx:
        digest = ctx.ledger.resolve(service, which)
        target = out or Path(f"{service}-{manifest.short(digest)}.lastgood.tar")
        written = archive.export(ctx.ledger.bundle_row(digest), store=ctx.store, keys=ctx.settings.keys, out=target)
        value = {"schema": "lastgood.export/v1", "bundle": digest, "file": str(written), "bytes": written.stat().st_size}
        common.emit(value, as_json=as_json, text=lambda: f"{written} ({value['bytes']:,} bytes)")
        return 0


@bundle.command(name="import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--trust", multiple=True, help="Fingerprint of another signer to trust, besides this installation's own key. May be repeated."
)
@click.option(
    "--untried", is_flag=True, help="Skip the trial in which the bundle's own code loads it and answers; recorded in the provenance."
)
@click.option("--actor", default=None, help="Who makes this change (default: LASTGOOD_ACTOR or your user name).")
@common.json_option
def import_(file: Path, trust: tuple[str, ...], untried: bool, actor: str | None, as_json: bool) -> int:
    """Import a bundle file. Its signature, names, sizes and digests are all checked before anything becomes visible."""
    from lastgood import release
    from lastgood.bundle import archive

    with common.context(create=True) as ctx:
        found, provenance = archive.import_(file, store=ctx.store, keys=ctx.settings.keys, trust=frozenset(trust))
        new = release.register(ctx, found, provenance=provenance, actor=common.actor(actor), now=clock.now(), untried=untried)
        value = {"schema": "lastgood.import/v1", "bundle": found.id, "service": found.service, "new": new}
        text = f"{manifest.short(found.id)} {'imported' if new else 'was already registered'}; release it with 'lastgood promote {found.service} {manifest.short(found.id)}'"
        common.emit(value, as_json=as_json, text=lambda: text)
        return 0

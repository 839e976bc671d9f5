"""`lastgood index`: the replicas in the vector engine, whether they are intact, and which may be removed."""

from __future__ import annotations

from typing import Any

import click

from lastgood import errors, release
from lastgood.bundle import manifest
from lastgood.cli import common
from lastgood.system import clock


@click.group()
def index() -> None:
    """List, verify and retire replicas of vector indexes; place legal holds on bundles."""


@index.command(name="list")
@common.json_option
def list_(as_json: bool) -> int:
    """List every replica in the engine, and what needs it."""
    from lastgood.index import retention

    with common.context(read_only=True) as ctx:
        needed = retention.needs(ctx.ledger, ctx.settings.index)
        value = [
            {
                "name": one.name,
                "snapshot": one.snapshot.id,
                "rows": one.snapshot.rows,
                "dim": one.snapshot.dim,
                "bytes": one.bytes,
                "built_at": one.built_at,
                "aliases": list(one.aliases),
                "needed": [str(need) for need in needed.get(one.name, ())],
            }
            for one in _engine(ctx).replicas()
        ]
        lines = [
            (v["name"], f"{v['rows']:,}", str(v["dim"]), _bytes(v["bytes"]), common.moment(v["built_at"]), (v["needed"] or ["-"])[0])
            for v in value
        ]
        header = ("INDEX", "ROWS", "DIM", "BYTES", "BUILT", "NEEDED")
        common.emit({"schema": "lastgood.index.list/v1", "replicas": value}, as_json=as_json, text=lambda: common.table(header, lines))
        return 0


@index.command()
@common.service_argument
@common.bundle_argument(required=False)
@click.option("--fast", is_flag=True, help="Check only sizes and times of files, not every byte and row.")
@common.json_option
def verify(service: str, bundle: str | None, fast: bool, as_json: bool) -> int:
    """Read every byte and row of BUNDLE's index in the engine (default: stable, candidate and previous)."""
    from lastgood.index import retention

    with common.context(read_only=True, service=service) as ctx:
        engine = _engine(ctx)
        results = []
        for digest in _named(ctx, service, bundle):
            name = retention.replica_of(ctx.ledger.bundle(digest))
            if name is None:
                raise errors.NotFound(f"bundle {manifest.short(digest)!r} has no index; name one that has")
            try:
                engine.verify(name, deep=not fast)
                results.append({"bundle": digest, "index": name, "ok": True, "why": ""})
            except (errors.Damaged, errors.NotFound) as error:
                results.append({"bundle": digest, "index": name, "ok": False, "why": str(error)})
        ok = all(result["ok"] for result in results)
        lines = [f"  {manifest.short(str(r['bundle']))} {r['index']} {'ok' if r['ok'] else 'DAMAGED: ' + str(r['why'])}" for r in results]
        value = {"schema": "lastgood.index.verify/v1", "service": service, "ok": ok, "indexes": results}
        common.emit(value, as_json=as_json, text=lambda: "\n".join(lines))
        return 0 if ok else 1


@index.command()
@click.argument("name", required=False)
@click.option("--dry-run", is_flag=True, help="Show what would be removed; change nothing.")
@common.json_option
def retire(name: str | None, dry_run: bool, as_json: bool) -> int:
    """Remove the replica NAME, or every replica that nothing needs. The bundle's index part stays, so a replica can be built again."""
    from lastgood.index import retention

    with common.context(read_only=dry_run) as ctx:
        engine, now = _engine(ctx), clock.now()
        if name is None:
            gone = retention.sweep(engine, ctx.ledger, ctx.settings.index, now=now, dry_run=dry_run)
        else:
            gone = [one.name for one in engine.replicas() if one.name == name]
            if not gone:
                raise errors.NotFound(f"no index {name!r} in the engine; see 'lastgood index list'")
            needed = retention.needs(ctx.ledger, ctx.settings.index)
            retention.check(next(one for one in engine.replicas() if one.name == name), needed=needed, keep_days=0.0, now=now)
            if not dry_run:
                engine.retire(name)
        value = {"schema": "lastgood.index.retire/v1", "retired": gone, "dry_run": dry_run}
        verb = "would be removed" if dry_run else "retired"
        common.emit(value, as_json=as_json, text=lambda: "\n".join(f"{one} {verb}" for one in gone) or "nothing may be removed")
        return 0


def _hold_options(command: common.Command) -> common.Command:
    for option in (
        common.json_option,
        click.option("--actor", default=None, help="Who makes this change (default: LASTGOOD_ACTOR or your user name)."),
        click.option("--reason", required=True, help="Why; kept permanently in the audit trail."),
        common.bundle_argument(),
        common.service_argument,
    ):
        command = option(command)
    return command


@index.command()
@_hold_options
def hold(service: str, bundle: str, reason: str, actor: str | None, as_json: bool) -> int:
    """Place a legal hold on BUNDLE: its index stays in the engine until the hold is lifted."""
    return _set_hold(service, bundle, held=True, reason=reason, actor=actor, as_json=as_json)


@index.command(name="release-hold")
@_hold_options
def release_hold(service: str, bundle: str, reason: str, actor: str | None, as_json: bool) -> int:
    """Lift the legal hold on BUNDLE."""
    return _set_hold(service, bundle, held=False, reason=reason, actor=actor, as_json=as_json)


def _set_hold(service: str, bundle: str, *, held: bool, reason: str, actor: str | None, as_json: bool) -> int:
    from lastgood.index import retention

    with common.context(service=service) as ctx:
        digest = ctx.ledger.resolve(service, bundle)
        who = common.actor(actor)
        retention.set_legal_hold(ctx.ledger, service, digest, held=held, reason=reason, actor=who, now=clock.now())
        value = {"schema": "lastgood.index.hold/v1", "service": service, "bundle": digest, "held": held, "reason": reason}
        said = f"legal hold {'placed on' if held else 'lifted from'} {manifest.short(digest)}: {reason}"
        common.emit(value, as_json=as_json, text=lambda: said)
        return 0


def _engine(ctx: release.Context) -> Any:
    from lastgood.index import catalog

    return catalog.connect(ctx.settings)


def _named(ctx: release.Context, service: str, bundle: str | None) -> list[str]:
    if bundle is not None:
        return [ctx.ledger.resolve(service, bundle)]
    state = ctx.ledger.state(service)
    found = [digest for digest in (state.stable, state.candidate, state.previous) if digest]
    if not found:
        raise errors.NotFound(f"{service!r} has never been released; name a bundle, see 'lastgood bundle list {service}'")
    return found


def _bytes(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"

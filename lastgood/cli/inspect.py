"""Verbs that only read: history, show, diff, plan, verify. They open the ledger read-only."""

from __future__ import annotations

import datetime
import textwrap
from collections.abc import Mapping
from typing import Any

import click

from lastgood import errors, ledger, release
from lastgood.bundle import manifest
from lastgood.cli import common, plans

REASON = 120
"""Most characters of a reason in a list of revisions; --limit 1, --at and --json show it in full."""
DIFF_LINES = 40
"""Most lines of changed prompts shown by `diff`."""


@click.command()
@common.service_argument
@click.option("--at", "at_text", default=None, help="Show what served at this time (ISO 8601; UTC if no zone is given).")
@click.option("--limit", type=common.count(), default=20, show_default=True, help="Show at most this many revisions.")
@common.json_option
def history(service: str, at_text: str | None, limit: int, as_json: bool) -> int:
    """List every change, newest first; with --at, show what served at that time."""
    with common.context(read_only=True, service=service) as ctx:
        common.known_state(ctx, service)
        if at_text is not None:
            found = ctx.ledger.at(service, parse_time(at_text))
            if found is None:
                raise errors.NotFound(f"{service!r} had no revision at {at_text!r} yet; see 'lastgood history {service}'")
            revisions = [found]
        else:
            revisions = ctx.ledger.history(service, limit=limit)
        value = {"schema": "lastgood.history/v1", "service": service, "at": at_text, "revisions": [revision_json(r) for r in revisions]}
        common.emit(value, as_json=as_json, text=lambda: _history_text(revisions))
        return 0


def parse_time(text: str) -> float:
    """ISO 8601 as Unix time in seconds; a time without a zone is UTC. Raises UsageError."""
    try:
        when = datetime.datetime.fromisoformat(text)
        at = (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp()
        datetime.datetime.fromtimestamp(at, datetime.UTC)  # an offset can move the time out of the supported years
    except (ValueError, OverflowError) as error:
        raise errors.UsageError(f"{text[:100]!r} is not a time; write it like 2026-11-23T03:15:00+00:00") from error
    return at


def revision_json(revision: ledger.Revision) -> dict[str, Any]:
    """A revision as JSON, for `history` and `status`."""
    state = revision.state
    return {
        "revision": revision.number,
        "at": revision.at,
        "time": common.moment(revision.at),
        "verb": revision.verb,
        "actor": revision.actor,
        "reason": revision.reason,
        "stable": state.stable,
        "candidate": state.candidate,
        "previous": state.previous,
        "phase": state.phase,
        "weight_pct": state.weight_pct,
        "mirror_pct": state.mirror_pct,
        "marks": [{"bundle": mark.bundle, "kind": mark.kind, "reason": mark.reason} for mark in revision.marks],
        "hash": revision.hash,
    }


def _history_text(revisions: list[ledger.Revision]) -> str:
    """One line per revision; the full reason only if there is a single one, because a gate's reason is a paragraph."""
    rows = []
    for revision in revisions:
        state = revision.state
        names = tuple(manifest.short(d) if d else "-" for d in (state.stable, state.candidate, state.previous))
        reason = revision.reason if len(revisions) == 1 else textwrap.shorten(revision.reason, REASON, placeholder=" …")
        rows.append((str(revision.number), common.moment(revision.at), revision.verb, *names, revision.actor, reason))
    return common.table(("REVISION", "TIME", "VERB", "STABLE", "CANDIDATE", "PREVIOUS", "ACTOR", "REASON"), rows)


@click.command()
@common.service_argument
@common.bundle_argument(required=False)
@common.json_option
def show(service: str, bundle: str | None, as_json: bool) -> int:
    """Show one bundle: its parts, its provenance and its evaluations (default: stable)."""
    with common.context(read_only=True, service=service) as ctx:
        digest = ctx.ledger.resolve(service, bundle or "stable")
        row = ctx.ledger.bundle_row(digest)
        state = ctx.ledger.state(service, about=(digest,))
        mark = state.marks.get(digest)
        aliases = [alias for alias in ("stable", "candidate", "previous") if getattr(state, alias) == digest]
        evaluations = [{"kind": e.kind, "at": e.at, "report": e.report} for e in ctx.ledger.evaluations(digest)]
        value = {
            "schema": "lastgood.show/v1",
            "id": digest,
            "short": manifest.short(digest),
            "aliases": aliases,
            "mark": {"kind": mark.kind, "reason": mark.reason} if mark else None,
            "registered_at": row.registered_at,
            "manifest": row.bundle.manifest(),
            "provenance": dict(row.provenance),
            "evaluations": evaluations,
        }
        common.emit(value, as_json=as_json, text=lambda: _show_text(value, row.bundle))
        return 0


def _show_text(value: dict[str, Any], bundle: manifest.Bundle) -> str:
    mark = common.in_line(f"  {value['mark']['kind']}: {value['mark']['reason']}") if value["mark"] else ""
    lines = [f"{value['id']}  {' '.join(value['aliases'])}{mark}", f"  registered {common.moment(value['registered_at'])}"]
    for part in bundle.parts.values():
        lines.append(f"  {part.name:<12} {manifest.short(part.digest)}  {part.size:>12,} bytes  {part.media_type}")
        lines += [f"      {key}: {plans._brief(fact)}" for key, fact in part.meta.items()]  # same package
    lines += [f"  from {key}: {plans._brief(fact)}" for key, fact in value["provenance"].items()]
    for evaluation in value["evaluations"]:
        metrics = evaluation["report"].get("metrics")
        known = metrics.items() if isinstance(metrics, Mapping) else ()  # only the offline report's metrics are guaranteed to be an object
        shown = ", ".join(f"{name} {number:.4g}" for name, number in known if isinstance(number, int | float))
        lines.append(f"  evaluated {evaluation['kind']} at {common.moment(evaluation['at'])}: {shown}")
    return "\n".join(lines)


@click.command()
@common.service_argument
@common.bundle_argument("before")
@common.bundle_argument("after")
@common.json_option
def diff(service: str, before: str, after: str, as_json: bool) -> int:
    """Show, part by part, how two bundles differ (ids, aliases or revision numbers)."""
    with common.context(read_only=True, service=service) as ctx:
        old, new = (ctx.ledger.bundle(_bundle_or_revision(ctx, service, text)) for text in (before, after))
        changes = manifest.diff(old, new)
        texts = _prompt_texts(ctx, changes)
        value = {
            "schema": "lastgood.diff/v1",
            "service": service,
            "from": old.id,
            "to": new.id,
            "parts": [{"part": c.name, "change": c.change, "meta": {key: list(pair) for key, pair in c.meta.items()}} for c in changes],
            "prompt": [{"file": file, "diff": lines} for file, lines in texts],
        }
        head = f"{manifest.short(old.id)} -> {manifest.short(new.id)}"
        common.emit(value, as_json=as_json, text=lambda: "\n".join([head, *plans.diff_lines(changes), *_shown(texts)]))
        return 0


def _prompt_texts(ctx: release.Context, changes: list[manifest.PartChange]) -> list[tuple[str, list[str]]]:
    """What changed in the prompt's text: (file, lines of a unified diff)."""
    from lastgood.bundle import prompts

    changed = next((one for one in changes if one.name == "prompt" and one.change == "changed"), None)
    if changed is None or changed.before is None or changed.after is None:
        return []
    return prompts.text_diff(ctx.store.path(changed.before.digest), ctx.store.path(changed.after.digest))


def _shown(texts: list[tuple[str, list[str]]]) -> list[str]:
    lines = [line for file, diff in texts for line in (f"    prompt/{file}", *(f"      {one}" for one in diff if not one.startswith("@@")))]
    left = len(lines) - DIFF_LINES
    return [*lines[:DIFF_LINES], *([f"      … {left} more lines; --json has them all"] if left > 0 else [])]


def _bundle_or_revision(ctx: release.Context, service: str, text: str) -> str:
    if text.isdigit() and len(text) < 4:
        stable = ctx.ledger.revision(service, int(text)).state.stable
        if stable is None:
            raise errors.NotFound(f"nothing was stable at revision {text}; see 'lastgood history {service}'")
        return stable
    return ctx.ledger.resolve(service, text)


@click.command()
@common.service_argument
@common.bundle_argument(required=False)
@common.json_option
def plan(service: str, bundle: str | None, as_json: bool) -> int:
    """Show what 'promote SERVICE BUNDLE' would do; without BUNDLE, what 'rollback SERVICE' would do."""
    with common.context(read_only=True, service=service) as ctx:
        digest = ctx.ledger.resolve(service, bundle) if bundle else None
        state = ctx.ledger.state(service, about=(digest,) if digest else ())
        if digest:
            plans.check_promotion(ctx, state, digest, override=None)
        made = plans.promotion(ctx, state, digest) if digest else plans.rollback(ctx, state, to=None, reason="plan")
        common.emit(made.to_json(), as_json=as_json, text=made.text)
        return 0


@click.command()
@common.service_argument
@common.bundle_argument(required=False)
@common.json_option
def verify(service: str, bundle: str | None, as_json: bool) -> int:
    """Hash every byte of BUNDLE's parts again (default: stable, candidate and previous)."""
    with common.context(read_only=True, service=service) as ctx:
        state = common.known_state(ctx, service)
        named = [ctx.ledger.resolve(service, bundle)] if bundle else [d for d in (state.stable, state.candidate, state.previous) if d]
        results = []
        for digest in named:
            try:
                ctx.store.verify_bundle(ctx.ledger.bundle(digest), deep=True)
                results.append({"bundle": digest, "ok": True, "why": ""})
            except (errors.Damaged, errors.NotFound) as error:
                results.append({"bundle": digest, "ok": False, "why": str(error)})
        value = {"schema": "lastgood.verify/v1", "service": service, "ok": all(r["ok"] for r in results), "bundles": results}
        lines = [f"  {manifest.short(str(r['bundle']))} {'ok' if r['ok'] else 'DAMAGED: ' + str(r['why'])}" for r in results]
        common.emit(value, as_json=as_json, text=lambda: "\n".join(lines))
        return 0 if value["ok"] else 1

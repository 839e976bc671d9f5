"""Verbs that only look: status, history, show, diff, plan, verify. They open the ledger read-only."""

from __future__ import annotations

import dataclasses
import datetime
import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import click

from lastgood import errors, ledger, release, settings
from lastgood.bundle import manifest as bundles
from lastgood.cli import common, plans
from lastgood.cli import outcome as receipt_text
from lastgood.core import arms
from lastgood.core import transitions as rollout
from lastgood.hosts import heartbeat, readiness
from lastgood.layers import base, receipts, reconcile
from lastgood.layers import desired as desired_state
from lastgood.layers.receipts import Receipt, Requests, read
from lastgood.model_retirement import records as lifetimes
from lastgood.release import convergence as converge
from lastgood.sources import log_losses as loss
from lastgood.system import clock as wallclock

DAY_S = 86_400.0
ALIASES = ("stable", "candidate", "previous")
REASON = 120
"""Most characters of a reason in a list of revisions; --limit 1, --at and --json have it in full."""
DIFF_LINES = 40
"""Most lines of changed prompts that `diff` shows."""


@click.command()
@common.service_argument
@common.json_option
def status(service: str, as_json: bool) -> int:
    """What serves now: in the ledger, and in each layer as it is seen this moment."""
    try:
        with common.context(read_only=True, service=service) as ctx:
            return _status(ctx, service, as_json=as_json)
    except (errors.Unavailable, errors.Damaged) as error:
        return _status_without_ledger(service, error, as_json=as_json)


def _status(ctx: release.Context, service: str, *, as_json: bool) -> int:
    state = common.known_state(ctx, service)
    seen = _look_at_layers(ctx, state)
    controller = heartbeat.look(ctx.settings)
    view = readiness.read(ctx.ledger, service, settings=ctx.settings, now=wallclock.now())
    last = ctx.ledger.revision(service, state.revision)
    ending = _ending(ctx, state)
    lost = loss.missing(ctx.settings, service)
    waiting, down = undelivered(ctx.ledger, service), ctx.settings.parked(service).exists()
    value = {
        "schema": "lastgood.status/v1",
        "service": service,
        "revision": state.revision,
        "stable": state.stable,
        "candidate": state.candidate,
        "previous": state.previous,
        **_way_json(state),
        "last": _revision_json(last),
        "ending": ending,
        "converged": all(receipt.covers(state.revision) for receipt in seen),
        "layers": [receipt.to_json() for receipt in seen],
        "controller": _controller_json(controller),
        "serving": receipts.serving({receipt.layer: receipt for receipt in seen}),
        "readiness": {alias: view.to_json(digest) for alias in ALIASES if (digest := getattr(state, alias))},
        "undelivered": waiting,
        "losses": [one.to_json() for one in lost],
        "requests": _requests(seen).to_json(),
        "taken_down": down,
    }
    running = controller is not None and not controller.frozen
    serving = _serving(service, seen, down=down)

    def text() -> str:
        return _status_text(
            state,
            last,
            seen,
            running=running,
            view=view,
            trouble=controller.trouble if controller else "",
            ending=ending,
            undelivered=waiting,
            lost=lost,
            serving=serving,
        )

    common.emit(value, as_json=as_json, text=text)
    return 0


def _way_json(state: rollout.State) -> dict[str, Any]:
    """How far a release is on its way."""
    whole = state.to_json()
    return {
        "phase": state.phase,
        "phase_until": state.phase_until,
        "rollout": state.rollout,
        "chain": whole["chain"],
        "position": state.position,
        "weight_pct": state.weight_pct,
        "mirror_pct": state.mirror_pct,
        "verifying": whole["verifying"],
        "hold": whole["hold"],
    }


def _requests(seen: Sequence[Receipt]) -> Requests:
    """Requests in flight on workers that leave, and what kills of the last day cut off."""
    infrastructure = next((one for one in seen if one.layer == "infrastructure"), None)
    found = receipts.requests(infrastructure, since=0)
    young = tuple(cut for cut in found.cut_off if cut["at"] > wallclock.now() - DAY_S)
    return dataclasses.replace(found, cut_off=young)


def _controller_json(life: heartbeat.Life | None) -> dict[str, Any]:
    running = life is not None and not life.frozen
    frozen = life is not None and life.frozen
    return {"running": running, "pid": life.record.pid if life else None, "frozen": frozen, "trouble": life.trouble if life else ""}


def _serving_lines(state: rollout.State, seen: list[Receipt]) -> list[str]:
    """What answers requests, as the proxy says, where that is not what the ledger wants."""
    serving = receipts.serving({receipt.layer: receipt for receipt in seen})
    if not serving or state.stable is None or set(serving) <= {state.stable, state.candidate, arms.control_of(state.stable)}:
        return []
    shares = ", ".join(f"{bundles.short(digest)} {share:g} %" for digest, share in serving.items())
    return [f"  ! requests are answered by {shares}, as the proxy says; traffic has not followed revision {state.revision}"]


def _repeated_lines(seen: Sequence[Receipt]) -> list[str]:
    """That callers give several requests one id, as the workers of this host have counted since their start: labels cannot tell these apart."""
    workers = [one.facts.get("workers", {}) for one in seen if one.layer == "infrastructure"]
    facts = [worker for found in workers if isinstance(found, Mapping) for worker in found.values() if isinstance(worker, Mapping)]
    repeated, unclear = (sum(worker.get(name) or 0 for worker in facts) for name in ("repeated_ids", "unclear_labels"))
    if not repeated and not unclear:
        return []
    refused = f", and {unclear:,} labels were refused that named several" if unclear else ""
    remedy = "with feedback send the request_id of the answer, or give each request an id of its own"
    return [f"  ! {repeated:,} requests came under an x-request-id that an earlier one had{refused}: {remedy}"]


def _ending(ctx: release.Context, state: rollout.State) -> dict[str, dict[str, Any]]:
    """Bundles with an alias whose hosted model is known to end, or to be gone."""
    found = {}
    for alias in ALIASES:
        digest = getattr(state, alias)
        known = lifetimes.newest(ctx.ledger, digest, now=wallclock.now()) if digest else None
        if known is not None and known.status in ("dying", "gone"):
            found[alias] = {"bundle": digest, **known.to_json()}
    return found


def _status_without_ledger(service: str, error: errors.LastgoodError, *, as_json: bool) -> int:
    """The ledger does not answer: say so, and what the proxy and the workers do by themselves. Exit code 1."""
    layers = reconcile.build(settings.load(), service)
    seen = {name: _facts(layers[name]) for name in converge.HERE if name in layers}
    value = {"schema": "lastgood.status/v1", "service": service, "ledger": str(error), "seen": seen}
    lines = [f"{service}  the ledger does not answer: {error}", "  what is seen without it:"]
    lines += [
        f"  {name:<15} revision {facts.get('revision')}  {json.dumps(facts.get('weights') or facts, default=str)}"
        for name, facts in seen.items()
    ]
    common.emit(value, as_json=as_json, text=lambda: "\n".join(lines))
    return error.exit_code


def _facts(layer: base.Layer) -> dict[str, Any]:
    try:
        observed = layer.observe()
    except base.LayerError as error:
        return {"error": str(error)}
    finally:
        layer.close()
    return {"revision": observed.revision, **observed.facts}


def _look_at_layers(ctx: release.Context, state: rollout.State) -> list[Receipt]:
    """Light layers are looked at now; the others answer with what they last told."""
    try:
        wanted = desired_state.read(state, ledger=ctx.ledger, store=ctx.store, settings=ctx.settings)
    except errors.LastgoodError as error:
        detail = f"what the layers should do cannot be read: {error}"
        return [
            Receipt(
                layer="configuration",
                status="failed",
                desired_revision=state.revision,
                observed_revision=None,
                ms=0.0,
                at=0.0,
                detail=detail,
            )
        ]
    told = read(ctx.settings.run(state.service) / "layers")
    seen = []
    for name, layer in reconcile.build(ctx.settings, state.service).items():
        if name in converge.HERE:
            seen.append(reconcile.look(layer, wanted))
        elif name in told:
            seen.append(told[name])
        else:
            detail = "never answered; is the controller running?"
            seen.append(Receipt(layer=name, status="unknown", desired_revision=0, observed_revision=None, ms=0.0, at=0.0, detail=detail))
        layer.close()
    return seen


def undelivered(book: ledger.Ledger, service: str) -> list[dict[str, Any]]:
    """The newest pages that a channel could not deliver yet: what they say, over which channel, how often it was tried, and why not."""
    return [
        {"summary": page.summary, "channel": name, "tries": one.tries, "error": one.error}
        for page in book.pages(service)
        if page.delivered_at is None
        for name, one in page.deliveries.items()
        if one.delivered_at is None
    ]


def _status_text(
    state: rollout.State,
    last: ledger.Revision,
    seen: list[Receipt],
    *,
    running: bool,
    view: readiness.View,
    trouble: str,
    ending: Mapping[str, Mapping[str, Any]],
    undelivered: Sequence[Mapping[str, Any]],
    lost: Sequence[loss.Missing],
    serving: tuple[str, str],
) -> str:
    now = wallclock.now()
    held = common.in_line(f"  held by {state.hold.actor}: {state.hold.reason}") if state.hold else ""
    lines = [f"{state.service}  revision {state.revision}  {_phase(state, now)}{held}"]
    for alias in ALIASES:
        digest = getattr(state, alias)
        known = f"  {view.text(digest)}" if digest and digest in view.arms else ""
        lines.append(f"  {alias:<10} {bundles.short(digest) if digest else '-'}{known}")
    lines.append(common.in_line(f"  last       {last.verb} by {last.actor}, {common.ago(now - last.at)} ago: {last.reason}"))
    if state.chain:
        shown = [f"[{plans.phase_text(p)}]" if n == state.position else plans.phase_text(p) for n, p in enumerate(state.chain)]
        lines.append(f"  phases     {' -> '.join([*shown, 'cut-over'])}")
    randomizes = next((told.facts.get("randomizes") for told in seen if told.layer == "traffic"), None)
    if state.weight_pct and randomizes:
        lines.append(f"  split      by {randomizes}")
    if state.phase == "approval" and not state.approved:
        lines.append(f"  ! waits for approval: lastgood approve {state.service} --reason …")
    for told in seen:
        behind = "" if told.covers(state.revision) else "  (behind)" if told.status == "converged" else ""
        lines.append(f"  {told.layer:<15} {told.status}{behind}{'  ' + told.detail if told.detail else ''}")
    lines += receipt_text.requests_lines(_requests(seen), service=state.service, changed=False)
    lines += _serving_lines(state, seen)
    lines += [f"  ! {alias} asks a model that is {one['status']}: {one['why']}" for alias, one in ending.items()]
    lines += [
        f"  ! page not delivered by {one['channel']} ({one['tries']} tries): {one['error']}: {common.in_line(one['summary'])}"
        for one in undelivered
    ]
    lines += _repeated_lines(seen)
    lines += [f"  ! {one.text()}" for one in lost]
    said, remedy = serving
    if trouble:
        lines.append(f"  ! the controller is {trouble}" if not running else f"  ! of the controller {trouble}")
    elif not running:
        also = f"{said}, and" if said else "what serves keeps serving, but"
        how = remedy or "start it with 'lastgood up'"
        lines.append(f"  ! the controller is not running: {also} nothing is repaired; {how}")
    if said and (running or trouble):
        lines.append(f"  ! {said}; {remedy}")
    return "\n".join(lines)


def _serving(service: str, seen: Sequence[Receipt], *, down: bool) -> tuple[str, str]:
    """That nothing answers, and the remedy, if that is what is seen; else two empty texts."""
    traffic = next((receipt for receipt in seen if receipt.layer == "traffic"), None)
    answers = traffic is None or traffic.facts.get("envoy") is not None or traffic.status not in ("unknown", "failed")
    if down and (traffic is None or not answers):
        return f"nothing serves: {service} was taken down", f"bring it up with 'lastgood up {service}'"
    if not answers and traffic is not None and traffic.status == "unknown":
        return "nothing serves: no proxy runs for it here", f"start it with 'lastgood up {service}'"
    return "", ""


def _phase(state: rollout.State, now: float) -> str:
    if state.phase == "idle" or state.phase_until is None:
        return "idle, verifying the step back" if state.verifying else "idle"
    until = f"until {common.moment(state.phase_until)}, {common.ago(state.phase_until - now)}"
    if state.position is None or state.phase_since is None:
        return f"{state.phase} ({until})"
    place = f"phase {state.position + 1} of {len(state.chain)}"
    shares = [f"{state.weight_pct:g} % of the traffic"] if state.weight_pct else []
    shares += [f"{state.mirror_pct:g} % mirrored"] if state.mirror_pct else []
    return f"{state.phase}, {', '.join([place, *shares])} (for {common.ago(now - state.phase_since)}, {until} at the latest)"


@click.command()
@common.service_argument
@click.option("--at", "at_text", default=None, help="What served at this time (ISO 8601; without a zone it is UTC).")
@click.option("--limit", type=common.count(), default=20, show_default=True, help="How many revisions.")
@common.json_option
def history(service: str, at_text: str | None, limit: int, as_json: bool) -> int:
    """Every change, the newest first; or with --at, what served at that time."""
    with common.context(read_only=True, service=service) as ctx:
        common.known_state(ctx, service)
        if at_text is not None:
            found = ctx.ledger.at(service, parse_time(at_text))
            if found is None:
                raise errors.NotFound(f"{service!r} had no revision at {at_text!r} yet; see 'lastgood history {service}'")
            revisions = [found]
        else:
            revisions = ctx.ledger.history(service, limit=limit)
        value = {"schema": "lastgood.history/v1", "service": service, "at": at_text, "revisions": [_revision_json(r) for r in revisions]}
        common.emit(value, as_json=as_json, text=lambda: _history_text(revisions))
        return 0


def parse_time(text: str) -> float:
    """ISO 8601 as Unix time in seconds; a time without a zone is UTC. Raises UsageError."""
    try:
        when = datetime.datetime.fromisoformat(text)
        at = (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp()
        datetime.datetime.fromtimestamp(at, datetime.UTC)  # a zone can lead out of the years that there are
    except (ValueError, OverflowError) as error:
        raise errors.UsageError(f"{text[:100]!r} is not a time; write it like 2026-11-23T03:15:00+00:00") from error
    return at


def _revision_json(revision: ledger.Revision) -> dict[str, Any]:
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
    """One line for each revision; the reason in full only where there is but one, for that of a gate is a paragraph."""
    rows = []
    for revision in revisions:
        state = revision.state
        names = tuple(bundles.short(d) if d else "-" for d in (state.stable, state.candidate, state.previous))
        reason = revision.reason if len(revisions) == 1 else textwrap.shorten(revision.reason, REASON, placeholder=" …")
        rows.append((str(revision.number), common.moment(revision.at), revision.verb, *names, revision.actor, reason))
    return common.table(("REVISION", "TIME", "VERB", "STABLE", "CANDIDATE", "PREVIOUS", "ACTOR", "REASON"), rows)


@click.command()
@common.service_argument
@common.bundle_argument(required=False)
@common.json_option
def show(service: str, bundle: str | None, as_json: bool) -> int:
    """One bundle: its parts, where it came from, how it was evaluated (default: stable)."""
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
            "short": bundles.short(digest),
            "aliases": aliases,
            "mark": {"kind": mark.kind, "reason": mark.reason} if mark else None,
            "registered_at": row.registered_at,
            "manifest": row.bundle.manifest(),
            "provenance": dict(row.provenance),
            "evaluations": evaluations,
        }
        common.emit(value, as_json=as_json, text=lambda: _show_text(value, row.bundle))
        return 0


def _show_text(value: dict[str, Any], bundle: bundles.Bundle) -> str:
    mark = common.in_line(f"  {value['mark']['kind']}: {value['mark']['reason']}") if value["mark"] else ""
    lines = [f"{value['id']}  {' '.join(value['aliases'])}{mark}", f"  registered {common.moment(value['registered_at'])}"]
    for part in bundle.parts.values():
        lines.append(f"  {part.name:<12} {bundles.short(part.digest)}  {part.size:>12,} bytes  {part.media_type}")
        lines += [f"      {key}: {plans._brief(fact)}" for key, fact in part.meta.items()]  # same package
    lines += [f"  from {key}: {plans._brief(fact)}" for key, fact in value["provenance"].items()]
    for evaluation in value["evaluations"]:
        metrics = evaluation["report"].get("metrics", {})
        shown = ", ".join(f"{name} {number:.4g}" for name, number in metrics.items() if isinstance(number, int | float))
        lines.append(f"  evaluated {evaluation['kind']} at {common.moment(evaluation['at'])}: {shown}")
    return "\n".join(lines)


@click.command()
@common.service_argument
@common.bundle_argument("before")
@common.bundle_argument("after")
@common.json_option
def diff(service: str, before: str, after: str, as_json: bool) -> int:
    """What differs, part by part, between two bundles (ids, aliases or revision numbers)."""
    with common.context(read_only=True, service=service) as ctx:
        old, new = (ctx.ledger.bundle(_bundle_or_revision(ctx, service, text)) for text in (before, after))
        changes = bundles.diff(old, new)
        texts = _prompt_texts(ctx, changes)
        value = {
            "schema": "lastgood.diff/v1",
            "service": service,
            "from": old.id,
            "to": new.id,
            "parts": [{"part": c.name, "change": c.change, "meta": {key: list(pair) for key, pair in c.meta.items()}} for c in changes],
            "prompt": [{"file": file, "diff": lines} for file, lines in texts],
        }
        head = f"{bundles.short(old.id)} -> {bundles.short(new.id)}"
        common.emit(value, as_json=as_json, text=lambda: "\n".join([head, *plans.diff_lines(changes), *_shown(texts)]))
        return 0


def _prompt_texts(ctx: release.Context, changes: list[bundles.PartChange]) -> list[tuple[str, list[str]]]:
    """What changed in the words of the prompt: (file, lines of a unified diff)."""
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
    """What 'promote SERVICE BUNDLE' would do; without BUNDLE, what 'rollback SERVICE' would do."""
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
        lines = [f"  {bundles.short(str(r['bundle']))} {'ok' if r['ok'] else 'DAMAGED: ' + str(r['why'])}" for r in results]
        common.emit(value, as_json=as_json, text=lambda: "\n".join(lines))
        return 0 if value["ok"] else 1

"""The verb status: what serves according to the ledger, and what each layer reports now. Read only."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from lastgood import errors, ledger, release, settings
from lastgood.bundle import manifest
from lastgood.cli import common, inspect, outcome, plans
from lastgood.core import arms
from lastgood.core.state import State
from lastgood.hosts import heartbeat, readiness
from lastgood.layers import base, receipts, reconcile
from lastgood.layers import desired as desired_state
from lastgood.layers.receipts import Receipt, RequestsInFlight, read
from lastgood.model_retirement import records
from lastgood.release import convergence
from lastgood.sources import log_losses
from lastgood.system import clock

DAY_S = 86_400.0
ALIASES = ("stable", "candidate", "previous")


@click.command()
@common.service_argument
@common.json_option
def status(service: str, as_json: bool) -> int:
    """Show what serves now: in the ledger, and in each layer as observed at this moment."""
    try:
        with common.context(read_only=True, service=service) as ctx:
            return _status(ctx, service, as_json=as_json)
    except (errors.Unavailable, errors.Damaged) as error:
        return _status_without_ledger(service, error, as_json=as_json)


def _status(ctx: release.Context, service: str, *, as_json: bool) -> int:
    state = common.known_state(ctx, service)
    seen = _look_at_layers(ctx, state)
    controller = heartbeat.controller_health(ctx.settings)
    view = readiness.read(ctx.ledger, service, settings=ctx.settings, now=clock.now())
    last = ctx.ledger.revision(service, state.revision)
    ending = _ending(ctx, state)
    lost = log_losses.missing(ctx.settings, service)
    waiting, down = undelivered(ctx.ledger, service), ctx.settings.parked(service).exists()
    value = {
        "schema": "lastgood.status/v1",
        "service": service,
        "revision": state.revision,
        "stable": state.stable,
        "candidate": state.candidate,
        "previous": state.previous,
        **_way_json(state),
        "last": inspect.revision_json(last),
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
            down=down and bool(serving[0]),
        )

    common.emit(value, as_json=as_json, text=text)
    return 0


def _way_json(state: State) -> dict[str, Any]:
    """The progress of a release."""
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


def _requests(seen: Sequence[Receipt]) -> RequestsInFlight:
    """Requests in flight on leaving workers, and those cut off by kills in the last day."""
    infrastructure = next((one for one in seen if one.layer == "infrastructure"), None)
    found = receipts.requests(infrastructure, since=0)
    young = tuple(cut for cut in found.cut_off if cut["at"] > clock.now() - DAY_S)
    return dataclasses.replace(found, cut_off=young)


def _controller_json(life: heartbeat.ControllerHealth | None) -> dict[str, Any]:
    running = life is not None and not life.frozen
    frozen = life is not None and life.frozen
    return {"running": running, "pid": life.record.pid if life else None, "frozen": frozen, "trouble": life.trouble if life else ""}


def _serving_lines(state: State, seen: list[Receipt]) -> list[str]:
    """What answers requests according to the proxy, if that differs from the ledger."""
    serving = receipts.serving({receipt.layer: receipt for receipt in seen})
    if not serving or state.stable is None or set(serving) <= {state.stable, state.candidate, arms.control_of(state.stable)}:
        return []
    shares = ", ".join(f"{manifest.short(digest)} {share:g} %" for digest, share in serving.items())
    return [f"  ! according to the proxy, requests are answered by {shares}; traffic has not followed revision {state.revision}"]


def _repeated_lines(seen: Sequence[Receipt]) -> list[str]:
    """A note that callers reuse request ids, as counted by this host's workers since their start: labels cannot distinguish them."""
    workers = [one.facts.get("workers", {}) for one in seen if one.layer == "infrastructure"]
    facts = [worker for found in workers if isinstance(found, Mapping) for worker in found.values() if isinstance(worker, Mapping)]
    repeated, unclear = (sum(worker.get(name) or 0 for worker in facts) for name in ("repeated_ids", "unclear_labels"))
    if not repeated and not unclear:
        return []
    refused = f", and {unclear:,} labels were refused because they matched several requests" if unclear else ""
    remedy = "send the answer's request_id with feedback, or give each request its own id"
    return [f"  ! {repeated:,} requests reused the x-request-id of an earlier request{refused}: {remedy}"]


def _ending(ctx: release.Context, state: State) -> dict[str, dict[str, Any]]:
    """Bundles with an alias whose hosted model has a known retirement date, or is gone."""
    found = {}
    for alias in ALIASES:
        digest = getattr(state, alias)
        known = records.newest(ctx.ledger, digest, now=clock.now()) if digest else None
        if known is not None and known.status in ("dying", "gone"):
            found[alias] = {"bundle": digest, **known.to_json()}
    return found


def _status_without_ledger(service: str, error: errors.LastgoodError, *, as_json: bool) -> int:
    """Report that the ledger does not answer, and what the proxy and the workers do on their own. Exit code 1."""
    layers = reconcile.build(settings.load(), service)
    seen = {name: _facts(layers[name]) for name in convergence.HERE if name in layers}
    value = {"schema": "lastgood.status/v1", "service": service, "ledger": str(error), "seen": seen}
    lines = [f"{service}  the ledger cannot be read: {error}", "  what can be seen without it:"]
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


def _look_at_layers(ctx: release.Context, state: State) -> list[Receipt]:
    """Light layers are observed now; the others are shown with their last report."""
    try:
        wanted = desired_state.read(state, ledger=ctx.ledger, store=ctx.store, settings=ctx.settings)
    except errors.LastgoodError as error:
        detail = f"cannot read the desired state of the layers: {error}"
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
        if name in convergence.HERE:
            seen.append(reconcile.observe_layer(layer, wanted))
        elif name in told:
            seen.append(told[name])
        else:
            detail = "never answered; is the controller running?"
            seen.append(Receipt(layer=name, status="unknown", desired_revision=0, observed_revision=None, ms=0.0, at=0.0, detail=detail))
        layer.close()
    return seen


def undelivered(book: ledger.Ledger, service: str) -> list[dict[str, Any]]:
    """The newest pages that a channel could not deliver yet: their text, the channel, the number of attempts, and the error."""
    return [
        {"summary": page.summary, "channel": name, "tries": one.tries, "error": one.error}
        for page in book.pages(service)
        if page.delivered_at is None
        for name, one in page.deliveries.items()
        if one.delivered_at is None
    ]


def _status_text(
    state: State,
    last: ledger.Revision,
    seen: list[Receipt],
    *,
    running: bool,
    view: readiness.View,
    trouble: str,
    ending: Mapping[str, Mapping[str, Any]],
    undelivered: Sequence[Mapping[str, Any]],
    lost: Sequence[log_losses.Missing],
    serving: tuple[str, str],
    down: bool,
) -> str:
    now = clock.now()
    held = common.in_line(f"  held by {state.hold.actor}: {state.hold.reason}") if state.hold else ""
    lines = [f"{state.service}  revision {state.revision}  {_phase(state, now)}{held}"]
    for alias in ALIASES:
        digest = getattr(state, alias)
        known = f"  {view.text(digest)}" if digest and digest in view.arms else ""
        lines.append(f"  {alias:<10} {manifest.short(digest) if digest else '-'}{known}")
    lines.append(common.in_line(f"  last       {last.verb} by {last.actor}, {common.ago(now - last.at)} ago: {last.reason}"))
    if state.chain:
        shown = [f"[{plans.phase_text(p)}]" if n == state.position else plans.phase_text(p) for n, p in enumerate(state.chain)]
        lines.append(f"  phases     {' -> '.join([*shown, 'cut-over'])}")
    randomizes = next((told.facts.get("randomizes") for told in seen if told.layer == "traffic"), None)
    if state.weight_pct and randomizes:
        lines.append(f"  split      by {randomizes}")
    if state.phase == "approval" and not state.approved:
        lines.append(f"  ! waits for approval: lastgood approve {state.service} --reason …")
    lines += [_layer_line(told, state, down=down) for told in seen]
    lines += outcome.requests_lines(_requests(seen), service=state.service, changed=False)
    lines += _serving_lines(state, seen)
    lines += [f"  ! {alias} uses a model that is {one['status']}: {one['why']}" for alias, one in ending.items()]
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
        also = f"{said}, and" if said else "the serving bundle keeps serving, but"
        how = remedy or "start it with 'lastgood up'"
        lines.append(f"  ! the controller is not running: {also} nothing is repaired; {how}")
    if said and (running or trouble):
        lines.append(f"  ! {said}; {remedy}")
    return "\n".join(lines)


def _layer_line(told: Receipt, state: State, *, down: bool) -> str:
    """A layer's receipt. If the service was taken down, nothing keeps the layer in step, so a difference is not called a lag."""
    if told.covers(state.revision):
        return f"  {told.layer:<15} {told.status}{'  ' + told.detail if told.detail else ''}"
    if down:
        return f"  {told.layer:<15} down on purpose"
    behind = "  (behind)" if told.status == "converged" else ""
    return f"  {told.layer:<15} {told.status}{behind}{'  ' + told.detail if told.detail else ''}"


def _serving(service: str, seen: Sequence[Receipt], *, down: bool) -> tuple[str, str]:
    """A warning that nothing answers, and its remedy, if that was observed; otherwise two empty texts."""
    traffic = next((receipt for receipt in seen if receipt.layer == "traffic"), None)
    answers = traffic is None or traffic.facts.get("envoy") is not None or traffic.status not in ("unknown", "failed")
    if down and (traffic is None or not answers):
        return f"nothing serves: {service} was taken down", f"bring it up with 'lastgood up {service}'"
    if not answers and traffic is not None and traffic.status == "unknown":
        return "nothing serves: no proxy runs for it here", f"start it with 'lastgood up {service}'"
    return "", ""


def _phase(state: State, now: float) -> str:
    if state.phase == "idle" or state.phase_until is None:
        return "idle, measuring the rollback" if state.verifying else "idle"
    until = f"until {common.moment(state.phase_until)}, {common.ago(state.phase_until - now)}"
    if state.position is None or state.phase_since is None:
        return f"{state.phase} ({until})"
    place = f"phase {state.position + 1} of {len(state.chain)}"
    shares = [f"{state.weight_pct:g} % of the traffic"] if state.weight_pct else []
    shares += [f"{state.mirror_pct:g} % mirrored"] if state.mirror_pct else []
    return f"{state.phase}, {', '.join([place, *shares])} (for {common.ago(now - state.phase_since)}, {until} at the latest)"

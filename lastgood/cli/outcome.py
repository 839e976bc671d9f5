"""The outcome of a finished change: layer by layer, with milliseconds, and with the command that undoes it."""

from __future__ import annotations

import json
from collections.abc import Callable

import click

from lastgood.bundle import manifest
from lastgood.cli import common
from lastgood.errors import PartlyConverged
from lastgood.layers import receipts
from lastgood.layers.infrastructure.local import drain
from lastgood.layers.receipts import Receipt
from lastgood.release import convergence


def progress(as_json: bool) -> Callable[[Receipt], None]:  # a click flag passed on
    """A callback that prints one line as each layer answers."""

    def show(receipt: Receipt) -> None:
        if not as_json:
            common.say(line(receipt))

    return show


def line(receipt: Receipt) -> str:
    """One layer's receipt in one line."""
    detail = f"  {receipt.detail}" if receipt.detail else ""
    return f"  {receipt.layer:<15} {receipt.status:<10} {receipt.ms:8.1f} ms{detail}"


def finish(outcome: convergence.Outcome, *, as_json: bool, waited: bool = False) -> int:
    """Print the outcome; returns the exit code: 0, or 6 if a layer has not followed or a release that was *waited* for is not done."""
    if as_json:
        click.echo(json.dumps(outcome.to_json(), default=str))
    else:
        click.echo(common.plain(text(outcome)))
    unfinished = waited and outcome.verb == "promote" and outcome.under_way
    return 0 if outcome.converged and not unfinished else PartlyConverged.exit_code


def text(outcome: convergence.Outcome) -> str:
    """The outcome for people."""
    after = outcome.after
    lagging = [receipt.layer for receipt in outcome.receipts if not receipt.covers(outcome.revision.number)]
    head = f"done: revision {outcome.revision.number} in {outcome.total_ms / 1000:.2f} s"
    if lagging:
        head = f"committed: revision {outcome.revision.number} in {outcome.total_ms / 1000:.2f} s; not converged yet: {', '.join(lagging)}"
    elif outcome.verb == "promote" and outcome.under_way:
        head = f"still in progress: revision {outcome.revision.number} after {outcome.total_ms / 1000:.2f} s"
    lines = [head, f"  stable is {manifest.short(after.stable) if after.stable else 'nothing: the service does not answer'}"]
    elsewhere = {digest: share for digest, share in (outcome.serving or {}).items() if digest == outcome.before.stable != after.stable}
    for digest in elsewhere:
        still = manifest.short(digest)
        lines.append(
            f"  ! according to the proxy, {still} still answers requests: traffic follows when a worker of the new bundle is ready"
        )
    traffic = f"{outcome.traffic_ms:.1f} ms after it" if outcome.traffic_ms is not None else "not moved"
    lines.append(f"  ledger {outcome.commit_ms:.1f} ms, traffic {traffic}")
    lines += [f"  {manifest.short(mark.bundle)} is {mark.kind} ({common.in_line(mark.reason)})" for mark in outcome.revision.marks]
    lines += [f"  ! {warning}" for warning in outcome.warnings]
    lines += requests_lines(outcome.requests, service=outcome.service, changed=outcome.before.stable not in (None, after.stable))
    if after.phase == "baking":
        lines.append(f"  watched until {common.moment(after.phase_until)}; previous stays warm")
    if outcome.under_way:
        share = f"{after.weight_pct:g} % of the traffic" if after.weight_pct else "no traffic"
        lines.append(
            f"  candidate {manifest.short(after.candidate or '')} is in progress: {after.phase}, {share}; the controller continues the release"
        )
        lines.append(f"Stop it: lastgood rollback {outcome.service} stable")
        lines.append(f"Watch it: lastgood watch {outcome.service}")
        return "\n".join(lines)
    if outcome.undo:
        lines.append(f"Undo: {outcome.undo}")
    lines.append(f"Next: lastgood status {outcome.service}")
    return "\n".join(lines)


def requests_lines(requests: receipts.RequestsInFlight, *, service: str, changed: bool) -> list[str]:
    """The fate of requests in flight on the leaving workers; if a bundle was *changed* for another, also that it is unknown so far."""
    lines = []
    for one in requests.leaving:
        number = one["requests"]
        if number == 0:
            continue
        count = "requests in flight, an unknown number," if number is None else f"{number} request{'' if number == 1 else 's'} in flight"
        until = f", until {common.moment(one['until'])} at the latest" if one["until"] else ""
        lines.append(f"  the worker of {manifest.short(str(one['bundle']))} leaves and still answers its {count}{until}")
    lines += [f"  ! {drain.cut_off_sentence(cut)}" for cut in requests.cut_off]
    if changed and not requests.known and not requests.leaving and not lines:
        lines.append(f"  the fate of requests in flight is not known yet; see 'lastgood status {service}'")
    return lines

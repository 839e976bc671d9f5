"""Verbs for one release from beginning to end: watch it live, and report on it afterwards. They open the ledger read-only."""

from __future__ import annotations

import json
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lastgood import release
from lastgood.bundle import manifest
from lastgood.cli import common, plans
from lastgood.gates import base
from lastgood.reports import live as live_report
from lastgood.reports.live import LiveStatus
from lastgood.system import clock as system_clock

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

Show = Callable[[LiveStatus], None]

COLOURS = {"pass": "green", "fail": "bold red", "inconclusive": "yellow"}
WORDS = {"pass": "passed", "fail": "FAILED", "inconclusive": "cannot tell"}
REASON = 200
"""Most characters of a reason that are shown."""
BAR = 12
"""Width, in characters, of the bar that shows how near the evidence is to its boundary."""


@click.command()
@common.service_argument
@click.option("--once", is_flag=True, help="Print the current state once and exit.")
@click.option("--interval", "interval_s", default=1.0, show_default=True, type=common.seconds(least=0.1), help="Seconds between updates.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per change, one per line.")
def watch(service: str, once: bool, interval_s: float, as_json: bool) -> int:
    """Follow the newest release of SERVICE until it has ended, including the analysis after a rollback.

    Exit code: 0 released (or --once while it is in progress), 5 rejected by a gate, 1 given up, 3 stopped by a person.
    """
    with common.context(read_only=True, service=service) as ctx:
        watcher = live_report.Watcher(ctx, service)
        live = sys.stdout.isatty() and not as_json and not once
        if live:
            return _live(watcher, interval_s=interval_s)
        return follow(watcher, _lines if as_json else _told(full=once), once=once, pause=lambda: time.sleep(interval_s))


def follow(
    watcher: live_report.Watcher, show: Show, *, once: bool = False, pause: Callable[[], None], clock: release.Clock = system_clock.now
) -> int:
    """Show each change until the release has ended; returns its exit code, or 0 with *once* while it is in progress."""
    before: Any = None
    while True:
        seen = watcher.look(clock())
        kept = _comparable(seen)
        if kept != before:
            show(seen)
            before = kept
        if seen.exit_code is not None or once:
            return seen.exit_code or 0
        pause()


def _comparable(seen: LiveStatus) -> dict[str, Any]:
    """The part of an observation whose difference counts as a change: everything but the time."""
    value = seen.to_json()
    for gate in value["gates"]:
        del gate["at"], gate["why"], gate["needs_s"]
    return {key: inner for key, inner in value.items() if key != "at"}


def _lines(seen: LiveStatus) -> None:
    click.echo(json.dumps(seen.to_json()))
    sys.stdout.flush()


def _told(*, full: bool) -> Show:
    """Plain text: everything on the first look, then a line whenever the release or a verdict changes."""
    last: list[Any] = [None]

    def show(seen: LiveStatus) -> None:
        told = seen.state.revision, {name: verdict.outcome for name, verdict in seen.verdicts.items()}, seen.actual, seen.ended
        if full:
            click.echo("\n".join(_page(seen)))
        elif told != last[0]:
            click.echo(_line(seen))
            sys.stdout.flush()
        last[0] = told

    return show


# --- plain text --------------------------------------------------------------------------------------------


def _line(seen: LiveStatus) -> str:
    gates = ", ".join(f"{name} {WORDS[verdict.outcome]}" for name, verdict in seen.verdicts.items()) or "nothing is measured"
    last = seen.revisions[0]
    if seen.ended:
        return _clean(f"{common.moment(seen.at)}  {seen.episode.outcome}: {seen.revisions[0].reason}")
    return _clean(f"{common.moment(seen.at)}  revision {last.number}  {_phase(seen)}, {_shares(seen)}  {gates}")


def _page(seen: LiveStatus) -> Iterator[str]:
    yield _clean(_head(seen))
    yield f"  {' -> '.join(f'[{name}]' if here else name for name, here in _chain(seen))}"
    yield f"  {_shares(seen)}"
    for verdict in seen.verdicts.values():
        figures = (
            f"{verdict.gate:<12} {WORDS[verdict.outcome]:<12} n {verdict.n:>8,}{_copies(verdict)}  {_figures(verdict):<22} {_bar(verdict)}"
        )
        yield _clean(f"  {figures.rstrip()}")
        yield _clean(f"      {verdict.why}")
    for revision in seen.revisions:
        yield _clean(
            f"  {revision.number:>5}  {common.moment(revision.at)}  {revision.verb:<12} {revision.actor}: {_brief(revision.reason)}"
        )
    for receipt in seen.layers.values():
        yield _clean(f"  {receipt.layer:<15} {receipt.status:<10} {receipt.detail}").rstrip()
    if seen.trouble:
        yield _clean(f"  ! {seen.trouble}")


def _clean(text: str) -> str:
    """*text* on one line, without anything that could affect a terminal."""
    return common.plain(text.replace("\n", " "))


def _brief(reason: str) -> str:
    """Shortened to fit; 'lastgood history' and the report have the full text."""
    return textwrap.shorten(reason, REASON, placeholder=" …")


def _head(seen: LiveStatus) -> str:
    began = seen.episode.revisions[0].at
    until = seen.episode.over_at if seen.episode.over_at is not None else seen.at
    name = manifest.short(seen.episode.candidate)
    return f"{seen.state.service}  rollout {seen.episode.number} of {name}  {seen.episode.outcome}, {common.ago(until - began)}"


def _chain(seen: LiveStatus) -> list[tuple[str, bool]]:
    """The phases of the rollout, with the current one marked."""
    state = seen.state
    first = seen.episode.revisions[0].state
    names = ["preparing", *(plans.phase_text(phase) for phase in first.chain), "cut-over", "bake"]
    place = {"preparing": 0, "baking": len(names) - 1}.get(state.phase, (state.position or 0) + 1)
    under_way = state.rollout == seen.episode.number
    return [(name, under_way and number == place) for number, name in enumerate(names)]


def _phase(seen: LiveStatus) -> str:
    state = seen.state
    if state.hold is not None:
        return f"held by {state.hold.actor} ({state.hold.reason})"
    if state.phase == "idle":
        return "measuring the rollback" if state.verifying else "idle"
    return plans.phase_text(state.planned) if state.planned else state.phase


def _shares(seen: LiveStatus) -> str:
    """The candidate's share of the traffic, as required by the ledger and as reported by the proxy."""
    digest = seen.episode.candidate
    desired = 100.0 if seen.state.stable == digest else seen.state.weight_pct if seen.state.candidate == digest else 0.0
    actual = "unknown" if seen.actual is None else f"{seen.actual.get(digest, 0.0):g} %"
    mirrored = f", {seen.state.mirror_pct:g} % mirrored" if seen.state.mirror_pct else ""
    return f"candidate {desired:g} % desired, {actual} actual{mirrored}"


def _copies(verdict: base.Verdict) -> str:
    """Whether these are answers to copies, or how many of those there were besides the answers to users."""
    if not verdict.copies:
        return ""
    return " copies" if verdict.user_errors is None and verdict.copies >= verdict.n else f" + {verdict.copies:,} copies"


def _figures(verdict: base.Verdict) -> str:
    percent = verdict.metric in ("error_rate", "agreement", "latency_p99", "sample_ratio")
    shown = [
        "-" if value is None else f"{100 * value:.3g} %" if percent else f"{value:.4g}" for value in (verdict.estimate, verdict.reference)
    ]
    return " vs ".join(shown) if verdict.estimate is not None else "-"


def _bar(verdict: base.Verdict) -> str:
    """How far the evidence (or the row of failing windows) has moved towards its boundary."""
    if verdict.evidence is not None and verdict.boundary:
        share, words = verdict.evidence / verdict.boundary, f"10^{verdict.evidence:.1f} of 10^{verdict.boundary:.1f}"
    elif verdict.persistence:
        share, words = verdict.streak / verdict.persistence, f"{verdict.streak} of {verdict.persistence} windows"
    else:
        return ""
    filled = round(BAR * max(0.0, min(1.0, share)))
    return f"{'#' * filled}{'.' * (BAR - filled)} {words}"


# --- live view ---------------------------------------------------------------------------------------------


def _live(watcher: live_report.Watcher, *, interval_s: float) -> int:
    from rich.live import Live

    with Live(auto_refresh=False, transient=False) as view:

        def show(seen: LiveStatus) -> None:
            view.update(_view(seen), refresh=True)

        while True:
            # Redrawn at each look, changed or not, because the clock has moved on.
            seen = watcher.look(system_clock.now())
            show(seen)
            if seen.exit_code is not None:
                return seen.exit_code
            time.sleep(interval_s)


def _view(seen: LiveStatus) -> Group:
    """The page as drawn by rich; every text is passed as text, never as markup, and without anything that could affect a terminal."""
    from rich.console import Group
    from rich.text import Text

    tone = {"released": "bold green", "taken out": "bold red", "rolled back": "bold red"}.get(seen.episode.outcome, "bold")
    parts: list[RenderableType] = [
        Text(_clean(_head(seen)), style=tone),
        _chain_text(seen),
        Text(_clean(f"{_phase(seen)}: {_shares(seen)}")),
    ]
    if seen.state.phase == "approval" and not seen.state.approved:
        parts.append(Text(f"waits for approval: lastgood approve {seen.state.service} --reason …", style="yellow"))
    if seen.verdicts:
        parts.append(_gates_table(seen))
    parts += [_revisions_table(seen), _layers_text(seen)]
    if seen.trouble:
        parts.append(Text(_clean(seen.trouble), style="red"))
    if seen.ended:
        parts.append(Text(f"Next: lastgood report {seen.state.service} --rollout {seen.episode.number}"))
    return Group(*parts)


def _chain_text(seen: LiveStatus) -> Text:
    from rich.text import Text

    made = Text()
    for number, (name, here) in enumerate(_chain(seen)):
        made.append(" → " if number else "", style="dim")
        made.append(f" {name} " if here else name, style="reverse bold" if here else "dim")
    return made


def _gates_table(seen: LiveStatus) -> Table:
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("gate", "verdict", "n", "estimate vs reference", "evidence", "needs", "why"):
        made.add_column(
            title, justify="right" if title == "n" else "left", ratio=1 if title == "why" else None, no_wrap=title in ("gate", "verdict")
        )
    for verdict in seen.verdicts.values():
        style = COLOURS[verdict.outcome]
        needs = (
            ""
            if verdict.needs is None
            else f"about {verdict.needs:,}" + (f", {common.ago(verdict.needs_s)}" if verdict.needs_s is not None else "")
        )
        cells = (
            verdict.gate,
            WORDS[verdict.outcome],
            f"{verdict.n:,}{_copies(verdict)}",
            _figures(verdict),
            _bar(verdict),
            needs,
            verdict.why,
        )
        made.add_row(*(Text(_clean(cell), style=style if place == 1 else "") for place, cell in enumerate(cells)))
    return made


def _revisions_table(seen: LiveStatus) -> Table:
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, show_header=False)
    for revision in seen.revisions:
        cells = (str(revision.number), f"{common.ago(seen.at - revision.at)} ago", revision.verb, revision.actor, _brief(revision.reason))
        made.add_row(*(Text(_clean(cell), style="dim") for cell in cells))
    return made


def _layers_text(seen: LiveStatus) -> Text:
    from rich.text import Text

    made = Text("layers  ", style="dim")
    for receipt in seen.layers.values():
        behind = "" if receipt.covers(seen.state.revision) or receipt.status != "converged" else " (behind)"
        made.append(f"{receipt.layer} ", style="dim")
        made.append(f"{receipt.status}{behind}  ", style="green" if receipt.covers(seen.state.revision) else "yellow")
    return made if seen.layers else Text("no layer has reported", style="dim")


# --- report ------------------------------------------------------------------------------------------------


@click.command()
@common.service_argument
@click.option(
    "--rollout", type=common.revision_number(), default=None, help="Revision that proposed the release (default: the newest release)."
)
@click.option("--out", type=common.OutFile(), default=None, help="File to write (default: SERVICE-rollout-N.html in the current folder).")
@common.json_option
def report(service: str, rollout: int | None, out: Path | None, as_json: bool) -> int:
    """Write an HTML report on a release: traffic shares, what the gates measured, how it ended. Prints its path."""
    from lastgood.reports import html, incident, record

    with common.context(read_only=True, service=service) as ctx:
        told = record.collect(ctx, service, rollout=rollout)
        written = html.write(told, out or Path(f"{service}-rollout-{told.rollout}.html"))
        value = {**incident.incident_record(told), "path": str(written)}
        common.emit(value, as_json=as_json, text=lambda: str(written))
        return 0

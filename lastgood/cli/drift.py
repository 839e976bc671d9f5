"""`lastgood drift`: evaluate completed windows, show their results, and decide on an alarm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lastgood import errors
from lastgood.bundle import manifest
from lastgood.cli import common
from lastgood.system import clock, plain

if TYPE_CHECKING:
    from lastgood.context import Context
    from lastgood.drift.backtest import Backtest
    from lastgood.drift.bundle_comparison import Comparison
    from lastgood.drift.decision import DriftDecision
    from lastgood.drift.watch import DriftWatch, WindowReport

SHOWN = 14


class InFile(click.Path):
    """A table to be read."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, path_type=Path)


@click.command()
@common.service_argument
@click.option("--since", "since_text", default=None, help="Show windows from this time on (ISO 8601; UTC if no zone is given).")
@click.option("--report", type=common.OutFile(), default=None, help="Write Evidently's report on these windows to FILE.")
@click.option("--decide", is_flag=True, help="If a decision on an alarm is due: compare the bundles, decide, and carry the decision out.")
@click.option("--beside", default=None, help="Also compare this bundle with stable, on the labelled rows since the alarm (or --since).")
@click.option("--dry-run", is_flag=True, help="Evaluate no new window and decide nothing; with --decide, show what would be decided.")
@click.option("--now", "at_present", is_flag=True, help="Also judge the rows of the last window's length, before that window is over.")
@click.option(
    "--backtest",
    type=InFile(),
    default=None,
    help="Show what the watch would have done on TABLE (CSV or Parquet): the fields of a request and a time.",
)
@click.option("--labels", type=InFile(), default=None, help="With --backtest: TABLE with 'label' and the columns that name a row.")
@click.option("--actor", default=None, help="Who makes this change (default: LASTGOOD_ACTOR or your user name).")
@common.json_option
def drift(
    service: str,
    since_text: str | None,
    report: Path | None,
    decide: bool,
    beside: str | None,
    dry_run: bool,
    at_present: bool,
    backtest: Path | None,
    labels: Path | None,
    actor: str | None,
    as_json: bool,
) -> int:
    """Report whether live traffic of SERVICE still resembles the data its bundle was built on.

    Evaluates each completed window once, as Dagster's sensor does. An alarm moves no traffic by itself.
    With --backtest nothing is recorded, and --report writes a page with a picture of every column over time.
    """
    if backtest is not None or labels is not None:
        return _backtest(service, backtest, labels=labels, report=report, as_json=as_json)
    from lastgood.cli.inspect import parse_time
    from lastgood.drift import decision as drift_decision
    from lastgood.drift import watch as drift_watch

    since = parse_time(since_text) if since_text is not None else None
    with common.context(read_only=dry_run, service=service) as ctx:
        now = clock.now()
        what = _watched(ctx, service)
        not_looked = "" if dry_run else _look_at_new(ctx, what, now=now)
        found = [one for one in drift_watch.window_reports(ctx, what) if since is None or one.end > since]
        decision = _decide(ctx, what, now=now, dry_run=dry_run, actor=common.actor(actor)) if decide else None
        compared = _compared(ctx, what, found, beside, since=since, now=now) if beside is not None else None
        if report is not None:
            _write_report(ctx, what, found, now=now, file=report)
        present = _present(ctx, what, now=now) if at_present else None
        decided = [one.report for one in ctx.ledger.evaluations(what.bundle) if one.kind == drift_decision.KIND]
    value = {
        "schema": "lastgood.drift/v1",
        "service": service,
        "bundle": what.bundle,
        "windows": [one.to_json() for one in found],
        "not_looked": not_looked or None,
        "decisions": decided,
        "decision": plain.mended(decision.to_json()) if decision else None,
        "beside": compared.to_json() if compared else None,
        "report": str(report) if report else None,
        "now": present,
    }
    common.emit(
        value, as_json=as_json, text=lambda: "\n".join([_text(what, found, decided, decision, compared), *_besides(not_looked, present)])
    )
    return 0


def _besides(not_looked: str, present: Mapping[str, Any] | None) -> list[str]:
    """The lines below the table of windows."""
    told = [f"  ! no new window was evaluated: {not_looked}"] if not_looked else []
    if present is not None:
        told.append(f"  now, since {common.moment(present['since'])}: {present['verdict']['outcome']}: {present['verdict']['why']}")
    return told


def _compared(ctx: Context, what: DriftWatch, found: Sequence[WindowReport], other: str, *, since: float | None, now: float) -> Comparison:
    """Stable and another bundle compared on the labelled rows since a given time, or since the alarm."""
    from lastgood.drift import bundle_comparison as drift_compare
    from lastgood.drift import watch as drift_watch

    begin = next(moment for moment in (since, drift_watch.open_alarm(found), what.since) if moment is not None)
    return drift_compare.compare_with_stable(ctx, what, ctx.ledger.resolve(what.service, other), since=begin, now=now)


def _watched(ctx: Context, service: str) -> DriftWatch:
    """What is watched for *service*. Raises NothingToDo, with the remedy."""
    from lastgood.drift import watch as drift_watch

    common.known_state(ctx, service)
    what = drift_watch.watch_of_service(ctx, service)
    if what is None:
        raise errors.NothingToDo(
            f"drift is not watched on {service!r}: its stable bundle has no 'drift' in service.yaml; add it and release"
        )
    return what


def _present(ctx: Context, what: DriftWatch, *, now: float) -> dict[str, Any]:
    """The newest requests and the verdict on them, as JSON."""
    from lastgood.drift import watch as drift_watch

    since, rows, said = drift_watch.at_present(ctx, what, now=now)
    return {"since": since, "until": now, "seen": rows, "verdict": plain.mended(said.to_json())}


def _backtest(service: str, file: Path | None, *, labels: Path | None, report: Path | None, as_json: bool) -> int:
    """What the watch would have reported for the table in *file*; nothing is recorded."""
    from lastgood.drift import backtest

    if file is None:
        raise errors.UsageError("--labels requires a table of the past; name it with --backtest")
    with common.context(read_only=True, service=service) as ctx:
        what = _watched(ctx, service)
        found = backtest.run(ctx, what, backtest.read(file), labels=backtest.read(labels) if labels else None)
    value = plain.mended(found.to_json())
    if report is not None:
        from lastgood.reports import drift_page

        drift_page.write(value, report, service=service, bundle=manifest.short(what.bundle))
    shown = {
        "schema": "lastgood.drift-backtest/v1",
        "service": service,
        "bundle": what.bundle,
        **value,
        "report": str(report) if report else None,
    }
    common.emit(shown, as_json=as_json, text=lambda: _backtest_text(what, found))
    return 0


def _backtest_text(what: DriftWatch, found: Backtest) -> str:
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(found.outcomes.items()))
    span = f"{common.moment(found.since)} to {common.moment(found.until)}"
    head = f"{what.service}  {manifest.short(what.bundle)}  {found.rows:,} rows in {len(found.windows)} windows, {span}: {counts}"
    changes = [(common.moment(one.begin), one.change, str(one.verdict["why"])) for one in found.windows if one.change]
    lines = [head, common.table(("WINDOW", "ALARM", "WHY"), changes) if changes else "  no alarm"]
    lines += [f"  look {one.look.number}, {common.moment(one.look.until)}: {one.outcome}: {one.why}" for one in found.decisions]
    return "\n".join(lines)


def _look_at_new(ctx: Context, what: DriftWatch, *, now: float) -> str:
    """Evaluate each completed window that is still due; returns why that cannot be done here, or ""."""
    from lastgood.drift import watch as drift_watch

    try:
        while drift_watch.evaluate_next_window(ctx, what, now=now):
            pass
    except errors.Conflict as error:
        return str(error)  # results recorded by other processes are shown anyway
    return ""


def _decide(ctx: Context, what: DriftWatch, *, now: float, dry_run: bool, actor: str) -> DriftDecision | None:
    """Make the decision that is due and carry it out; None if none is due."""
    from lastgood.drift import decision as drift_decision

    look = drift_decision.due(ctx, what, now=now)
    if look is None:
        return None
    decision = drift_decision.decide(ctx, what, look)
    if not dry_run:
        drift_decision.carry_out(ctx, what, decision, now=clock.now(), actor=actor)
    return decision


def _write_report(ctx: Context, what: DriftWatch, found: Sequence[WindowReport], *, now: float, file: Path) -> None:
    from lastgood.drift import evidently_report as drift_report

    drift_report.write(ctx, what, since=found[0].begin if found else what.since, until=found[-1].end if found else now, file=file)


def _text(
    what: DriftWatch,
    found: Sequence[WindowReport],
    decided: Sequence[Mapping[str, Any]],
    decision: DriftDecision | None,
    compared: Comparison | None,
) -> str:
    from lastgood.drift import watch as drift_watch

    open_since = drift_watch.open_alarm(found)
    calm = "no alarm" if found else "nothing has been judged yet"
    head = f"{what.service}  {manifest.short(what.bundle)}  " + (f"alarm since {common.moment(open_since)}" if open_since else calm)
    rows = [(common.moment(one.begin), f"{one.seen:,}", str(one.verdict["outcome"]), str(one.verdict["why"])) for one in found[-SHOWN:]]
    lines = [head, common.table(("WINDOW", "ROWS", "OUTCOME", "WHY"), rows) if rows else "  no window is complete yet"]
    lines += [f"  decided at look {one['look']['number']}: {one['outcome']}: {one['why']}" for one in decided]
    lines += [f"  ! {decision.outcome}: {decision.why}"] if decision and decision.to_json() not in decided else []
    lines += [f"  compared with {manifest.short(compared.other)}: {compared.why}"] if compared else []
    return "\n".join(lines)

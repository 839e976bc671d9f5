"""Live traffic, window by window: materializations of `<service>/drift` with figures for the UI, checks, and a job per look at an alarm.

The watch itself belongs to the library, and may also be run from elsewhere (`lastgood drift`); this sensor calls it, shows what the
ledger has, and requests jobs: `evaluate_rollback` when a decision is due, `drift_report` when an alarm begins, `retrain` when
that was the decision and the service wants it done automatically. It decides nothing.
"""

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import dagster as dg

from dagster_lastgood import drift_assets, project
from dagster_lastgood import live_checks as live
from lastgood import errors
from lastgood import settings as settings_
from lastgood.settings import Settings
from lastgood.system import clock

if TYPE_CHECKING:
    from lastgood.drift.decision import ScheduledLook
    from lastgood.drift.watch import DriftWatch, WindowReport
    from lastgood.release import Context

DECIDE, REPORT, RETRAIN = "evaluate_rollback", "drift_report", "retrain"
"""The jobs that a tick may request."""
FOR = "lastgood/for"
"""Tag of a run: what it decides or reports, whichever attempt it is."""
ATTEMPTS = 3
BUDGET_S = 20.0
"""Seconds after which a tick starts no further window: the first of a bundle takes seconds, and a tick may take 60 s. The next continues."""


def _tick_s() -> int:
    """Seconds between two ticks. A broken lastgood.toml is reported where it is used; here it must not keep `rollback` from loading."""
    known = project.settings()
    return round((known.drift if known else settings_.DriftSettings()).tick_s)


def drift_watch(
    services: Sequence[str], *, jobs: Sequence[dg.JobDefinition], expected: Mapping[str, live.Expectations] = MappingProxyType({})
) -> dg.SensorDefinition:
    """The sensor for *services*; *jobs* are those that it may request: DECIDE, REPORT and RETRAIN. *expected* is, by service, what is checked."""

    @dg.sensor(
        name="drift_watch",
        jobs=jobs,
        minimum_interval_seconds=_tick_s(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Evaluates each completed window of live traffic once, shows it as <service>/drift, and has alarms decided.",
    )
    def watch(context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]) -> dg.SensorResult | dg.SkipReason:
        return _watched(context, settings, services, expected)

    return watch


def _watched(
    context: dg.SensorEvaluationContext, settings: Settings, services: Sequence[str], expected: Mapping[str, live.Expectations]
) -> dg.SensorResult | dg.SkipReason:
    """Report the windows that Dagster does not have yet, and the looks that are due; where it is follows from ledger and materializations."""
    from lastgood import release

    until = time.monotonic() + BUDGET_S
    news = _News()
    words = []
    try:
        with release.open_context(settings, create=False) as ctx:
            for service in services:
                try:
                    said = _service(context, ctx, service, news=news, until=until, suite=expected.get(service))
                except (errors.Damaged, errors.NotFound, errors.UsageError) as error:
                    said = str(error)  # the other services continue
                words.append(f"{service}: {said}")
    except errors.NotFound:  # nothing was ever built here, and looking must not create a ledger
        return dg.SkipReason("; ".join(f"{service}: drift is not watched" for service in services))
    except errors.LastgoodError as error:
        return dg.SkipReason(f"the ledger cannot be read: {error}")
    if not news.shown and not news.asked:
        return dg.SkipReason("; ".join(words))
    partitions = [drift_assets.partitions(event.asset_key.path[0]).build_add_request([str(event.partition)]) for event in news.shown]
    return dg.SensorResult(asset_events=[*news.judged, *news.shown], run_requests=news.asked, dynamic_partitions_requests=partitions)


class _News:
    """The findings of a tick: materializations, their checks, and runs to be launched."""

    def __init__(self) -> None:
        self.shown: list[dg.AssetMaterialization] = []
        self.judged: list[dg.AssetCheckEvaluation] = []
        self.asked: list[dg.RunRequest] = []


def _service(
    context: dg.SensorEvaluationContext, ctx: "Context", service: str, *, news: _News, until: float, suite: live.Expectations | None
) -> str:
    """The findings for one service."""
    from lastgood.drift import decision as drift_decision
    from lastgood.drift import watch as drift_watch

    what = drift_watch.watch_of_service(ctx, service) if ctx.ledger.newest(service) else None
    if what is None:
        return "drift is not watched on any service"
    elsewhere = ""
    try:
        while drift_watch.evaluate_next_window(ctx, what, now=clock.now(), at_once=1) and time.monotonic() < until:
            pass
    except errors.Conflict as error:
        elsewhere = str(error)
    found = list(drift_watch.window_reports(ctx, what))
    # Not based on existing partitions: the daemon creates those first, and may die before it stores their contents.
    known = context.instance.get_materialized_partitions(drift_assets.key(service))
    for one in found:
        if drift_assets.name_of(what, one) not in known and time.monotonic() < until:
            news.shown.append(drift_assets.materialization(what, one))
            news.judged += _judged(context, ctx, what, one, suite=suite)
    if elsewhere:
        return elsewhere  # an alarm is decided where the log is
    alarm = drift_watch.open_alarm(found)
    asked = [report(what, one) for one in found if alarm is not None and one.alarm == alarm and one.change in ("opened", "worse")]
    look = drift_decision.due(ctx, what, now=clock.now())
    asked += [request(what, look)] if look is not None else []
    unfit = drift_decision.to_build(ctx, what, alarm) if alarm is not None else None
    asked += [retraining(what, *unfit, expected=ctx.ledger.newest(service))] if unfit is not None else []
    news.asked += [one for one in (_attempt(context.instance, run) for run in asked) if one is not None]
    return _words(what, found)


def _attempt(instance: dg.DagsterInstance, wanted: dg.RunRequest) -> dg.RunRequest | None:
    """*wanted*, with a new key if an earlier run for the same purpose failed; None if one is running or done, or ATTEMPTS have failed."""
    runs = instance.get_runs(filters=dg.RunsFilter(tags={FOR: str(wanted.run_key)}), limit=ATTEMPTS)
    failed = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
    if len(runs) >= ATTEMPTS or any(run.status not in failed for run in runs):
        return None
    key = str(wanted.run_key) if not runs else f"{wanted.run_key}/again-{len(runs)}"
    return dg.RunRequest(
        run_key=key, job_name=wanted.job_name, run_config=wanted.run_config, tags={**wanted.tags, FOR: str(wanted.run_key)}
    )


def _judged(
    context: dg.SensorEvaluationContext, ctx: "Context", what: "DriftWatch", one: "WindowReport", *, suite: live.Expectations | None
) -> list[dg.AssetCheckEvaluation]:
    """Great Expectations results for the window. If that fails, the window is unaffected: a third-party library, on unusual data."""
    try:
        return live.evaluations(ctx, what, one, suite=suite)
    except Exception as error:  # noqa: BLE001
        context.log.warning(f"{what.service}: no expectations on the window of {drift_assets.name_of(what, one)}: {error!r}")
        return []


def _words(what: "DriftWatch", found: "list[WindowReport]") -> str:
    if not found:
        return f"the first window of {what.rules.window_s:g} s is not complete yet"
    last = found[-1]
    alarm = "an alarm is open, " if last.episode.alarm is not None else ""
    return f"{len(found)} windows evaluated, {alarm}the last one: {last.verdict['outcome']}"


def request(what: "DriftWatch", look: "ScheduledLook") -> dg.RunRequest:
    """The run that decides *look*; the same look has the same key, so that a repeated tick launches nothing twice."""
    return dg.RunRequest(
        run_key=f"{what.service}/{what.bundle[7:19]}/{what.revision}/{int(look.alarm)}/{look.number}",
        job_name=DECIDE,
        run_config={"ops": {"evaluate": {"config": {"service": what.service}}}},
        tags={"lastgood/service": what.service, "lastgood/alarm": str(int(look.alarm))},
    )


def report(what: "DriftWatch", one: "WindowReport") -> dg.RunRequest:
    """The run that writes Evidently's report on the windows that caused the alarm."""
    since = one.begin if one.alarm is None else min(one.alarm, one.begin)  # a loss alarm begins when its last window ends
    asked = {"service": what.service, "since": since, "until": one.end}
    return dg.RunRequest(
        run_key=f"{what.service}/{what.bundle[7:19]}/{what.revision}/{int(one.alarm or 0)}/{one.change}",
        job_name=REPORT,
        run_config={"ops": {"report": {"config": asked}}},
        tags={"lastgood/service": what.service, "lastgood/alarm": str(int(one.alarm or 0))},
    )


def retraining(what: "DriftWatch", look: "ScheduledLook", why: str, *, expected: int) -> dg.RunRequest:
    """The run that builds and proposes a new bundle after *look* called for it; refused if the service is no longer at revision *expected*."""
    asked = {"service": what.service, "reason": f"drift: {why}", "expected": expected}
    return dg.RunRequest(
        run_key=f"{request(what, look).run_key}/retrain",
        job_name=RETRAIN,
        run_config={"ops": {"retrain": {"config": asked}}},
        tags={"lastgood/service": what.service, "lastgood/alarm": str(int(look.alarm))},
    )

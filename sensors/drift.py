"""What comes in, window by window: materializations of `<service>/drift` with numbers that the UI plots, and a job for each look at an alarm.

The watch itself is the library's, and may be called from elsewhere as well (`lastgood drift`); this calls it, shows what the
ledger has, and asks for the job `evaluate_rollback` when a decision is due. It decides nothing.
"""

import time
from typing import TYPE_CHECKING

import dagster as dg

import assets
from assets import windows
from lastgood import settings as settings_

if TYPE_CHECKING:
    from lastgood.ops.drift_decision import Look
    from lastgood.ops.drift_watch import Looked, Watched
    from lastgood.release import Context

AT_ONCE = 3
"""Windows that a tick looks at: the first of a bundle takes seconds, and a tick may take 60 s."""


@dg.sensor(
    job_name="evaluate_rollback",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Looks at each window of what came in, once; shows it as <service>/drift, and has an alarm decided.",
)
def drift_watch(context: dg.SensorEvaluationContext, settings: dg.ResourceParam[settings_.Settings]) -> dg.SensorResult | dg.SkipReason:
    """Report the windows that Dagster has no partition for yet, and the looks that are due. Where it stands, ledger and partitions say."""
    from lastgood import errors, release

    events: list[dg.AssetMaterialization] = []
    asked: list[dg.RunRequest] = []
    words = []
    try:
        with release.open_context(settings) as ctx:
            for service in assets.names():
                try:
                    said = _service(context, ctx, service, events=events, asked=asked)
                except (errors.Damaged, errors.NotFound, errors.UsageError) as error:
                    said = str(error)  # the other services go on
                words.append(f"{service}: {said}")
    except errors.LastgoodError as error:
        return dg.SkipReason(f"the ledger cannot be read: {error}")
    if not events and not asked:
        return dg.SkipReason("; ".join(words))
    partitions = [windows.partitions(event.asset_key.path[0]).build_add_request([str(event.partition)]) for event in events]
    return dg.SensorResult(asset_events=events, run_requests=asked, dynamic_partitions_requests=partitions)


def _service(
    context: dg.SensorEvaluationContext, ctx: "Context", service: str, *, events: list[dg.AssetMaterialization], asked: list[dg.RunRequest]
) -> str:
    """What there is to say of one service."""
    from lastgood.ops import drift_decision, drift_watch

    now = time.time()
    what = drift_watch.watched(ctx, service) if ctx.ledger.newest(service) else None
    if what is None:
        return "nothing is watched"
    drift_watch.tick(ctx, what, now=now, at_once=AT_ONCE)
    found = list(drift_watch.looked(ctx, what))
    known = set(context.instance.get_dynamic_partitions(windows.partitions(service).name or ""))
    fresh = [one for one in found if windows.name_of(what, one) not in known]
    events += [windows.materialization(what, one) for one in fresh[:AT_ONCE]]
    look = drift_decision.due(ctx, what, now=now)
    if look is not None:
        asked.append(request(what, look))
    return _words(what, found)


def _words(what: "Watched", found: "list[Looked]") -> str:
    if not found:
        return f"the first window of {what.rules.window_s:g} s is not over yet"
    last = found[-1]
    alarm = "an alarm is open, " if last.episode.alarm is not None else ""
    return f"{len(found)} windows looked at, {alarm}the last one: {last.verdict['outcome']}"


def request(what: "Watched", look: "Look") -> dg.RunRequest:
    """The run that decides *look*; the same look has the same key, so a repeated tick launches nothing twice."""
    return dg.RunRequest(
        run_key=f"{what.service}/{what.bundle[7:19]}/{what.revision}/{int(look.alarm)}/{look.number}",
        job_name="evaluate_rollback",
        run_config={"ops": {"evaluate": {"config": {"service": what.service}}}},
        tags={"lastgood/service": what.service, "lastgood/alarm": str(int(look.alarm))},
    )

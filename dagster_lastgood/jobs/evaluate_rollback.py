"""The job `evaluate_rollback`: the decision on a drift alarm. The serving bundle and its rollback target are compared on the same rows."""

from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from dagster_lastgood import drift_assets, hooks
from dagster_lastgood import metadata as asset_metadata
from dagster_lastgood.jobs import drift_report
from dagster_lastgood.jobs.verbs import NEVER_AGAIN
from lastgood.settings import Settings

if TYPE_CHECKING:
    from lastgood.drift.decision import DriftDecision, ScheduledLook
    from lastgood.drift.watch import DriftWatch


class Evaluate(dg.Config):
    """Which look at which alarm; by default, the one that is due."""

    service: str = Field(description="Service whose drift alarm to decide.")
    actor: str = Field(default="dagster", description="Who makes this change; recorded in the release history.")
    dry_run: bool = Field(default=False, description="Compare and show the result; change nothing.")


@dg.op(
    description="Compare stable with its rollback target on the rows answered since the alarm; roll back if the target is clearly better.",
)
def evaluate(context: dg.OpExecutionContext, config: Evaluate, settings: dg.ResourceParam[Settings], mlflow: dg.ResourceParam[Any]) -> None:
    """Report the decision and what was done."""
    from lastgood import errors, release
    from lastgood.drift import decision as drift_decision
    from lastgood.drift import watch as drift_watch
    from lastgood.system import clock

    with release.open_context(settings, create=False, service=config.service) as ctx:
        now = clock.now()
        what = drift_watch.watch_of_service(ctx, config.service)
        look = drift_decision.due(ctx, what, now=now) if what else None
        if what is None or look is None:
            context.log.info("nothing is due: no alarm is open, it is already decided, or a release is in progress")
            context.add_output_metadata({"outcome": "nothing is due"})
            return
        try:
            decision = drift_decision.decide(ctx, what, look)
            moved = None if config.dry_run else drift_decision.carry_out(ctx, what, decision, now=clock.now(), actor=config.actor)
        except errors.LastgoodError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from None
        metadata = {**described(decision), "moved": f"revision {moved.revision.number}" if moved else "nothing"}
        metadata |= _report(context, ctx, what, look, settings=settings, mlflow=mlflow)
    context.log.info(f"{decision.outcome}: {decision.why}")
    said = f"look {look.number} of {look.of}: {decision.outcome}: {decision.why}"
    context.log_event(dg.AssetObservation(drift_assets.key(config.service), description=said, metadata=metadata))
    context.add_output_metadata(metadata)


def described(decision: "DriftDecision") -> dict[str, Any]:
    """The decision as shown in the UI."""
    compared = decision.compared
    found: dict[str, Any] = {
        "outcome": decision.outcome,
        "why": decision.why,
        "lastgood/bundle": decision.bundle,
        "way back": decision.target or "none",
        "look": f"{decision.look.number} of {decision.look.of}",
        "features": dg.MetadataValue.json(dict(decision.features)),
    }
    if compared is not None:
        found |= {"difference": compared.difference, "rows": compared.rows, "stretches": compared.clusters}
        rows: list[asset_metadata.TableRow] = [
            {"bundle": "stable", "score": compared.first},
            {"bundle": "way back", "score": compared.second},
        ]
        found["compared"] = asset_metadata.table(rows)
        if compared.low is not None and compared.high is not None:
            found |= {"difference at least": compared.low, "difference at most": compared.high}
    return found


def _report(
    context: dg.OpExecutionContext, ctx: Any, what: "DriftWatch", look: "ScheduledLook", *, settings: Settings, mlflow: Any
) -> dict[str, Any]:
    """Evidently's report to go with it; if it is missing or fails, the decision still stands."""
    try:
        return drift_report.written(ctx, what, since=look.alarm, until=look.until, settings=settings, mlflow=mlflow)
    except Exception as error:  # noqa: BLE001  # a third-party library, on data that are unusual by definition
        context.log.warning(f"no report: {error}")
        return {"evidently": f"left out: {error}"}


@dg.job(
    name="evaluate_rollback",
    executor_def=dg.in_process_executor,
    tags=NEVER_AGAIN,
    hooks={hooks.finish_mlflow_run, hooks.fail_mlflow_run},
    description='Decide a drift alarm: {"ops": {"evaluate": {"config": {"service": "flights"}}}}.',
)
def evaluate_rollback_job() -> None:
    """Compare the serving bundle with its rollback target, and carry out the decision."""
    evaluate()

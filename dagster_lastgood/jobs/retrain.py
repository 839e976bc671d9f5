"""The job `retrain`: build a new bundle with the service's own build job and pass it to the normal rollout. Never straight to stable."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from dagster_lastgood import parts
from dagster_lastgood.jobs import verbs as jobs
from lastgood.settings import Settings

if TYPE_CHECKING:
    from lastgood.release.convergence import Outcome


class Retrain(dg.Config):
    """The service, and the options of its build."""

    service: str = Field(description="Service to build again.")
    reason: str = Field(description="Why; recorded in the release history.")
    ops: dict[str, Any] = Field(
        default={}, description='Config of the build by op, for example {"flights__data": {"config": {"train": [4, 5], "evaluate": [6]}}}.'
    )
    actor: str = Field(default="dagster", description="Who makes this change; recorded in the release history.")
    expected: int | None = Field(default=None, description="Refuse to release if the service is no longer at this revision.")
    wait_s: float = Field(default=60.0, ge=0, description="Seconds to wait for the phases; the controller continues after that.")


Builds = Callable[[str], dg.JobDefinition | None]
"""Returns the build job of a service; None if it has none."""


def retrain_job(builds: Builds) -> dg.JobDefinition:
    """The job; *builds* is called when it runs."""

    @dg.op(
        name="retrain",
        description="Run the service's build job and propose the resulting bundle as a candidate: its phases and gates decide.",
    )
    def retrain(context: dg.OpExecutionContext, config: Retrain, settings: dg.ResourceParam[Settings]) -> None:
        _retrained(context, config, settings, builds)

    @dg.graph(name="retraining")
    def retraining() -> None:
        retrain()

    # Wrapped in a graph: a job made of an op of its own name is refused.
    return retraining.to_job(
        name="retrain",
        executor_def=dg.in_process_executor,
        description='Build and release as a candidate: {"ops": {"retrain": {"config": {"service": "flights", "reason": "drift"}}}}.',
    )


def _retrained(context: dg.OpExecutionContext, config: Retrain, settings: Settings, builds: Builds) -> None:
    """Report the outcome of the verb `promote` on the new bundle; a build that fails changes nothing."""
    from lastgood import release
    from lastgood.release import convergence

    digest = build(context, config, builds)
    hold_beside(context, config, digest, settings=settings)

    def verb() -> "Outcome":
        with release.open_context(settings, create=False, service=config.service) as ctx:
            return convergence.promote(
                ctx,
                config.service,
                digest,
                reason=config.reason,
                actor=config.actor,
                wait_s=config.wait_s,
                expected=config.expected,
            )

    jobs.report(context, verb)


def build(context: dg.OpExecutionContext, config: Retrain, builds: Builds) -> str:
    """The bundle made by the service's build job, in a run of its own. Raises Failure."""
    job = builds(config.service)
    if job is None:
        raise dg.Failure(
            f"service {config.service!r} has no build job in this code location; give its dagster_lastgood.Service one, called 'build'",
            allow_retries=False,
        )
    done = job.execute_in_process({"ops": config.ops}, instance=context.instance, raise_on_error=False)
    if not done.success:
        raise dg.Failure(f"the build failed in run {done.run_id}; nothing was released", allow_retries=False)
    wanted = parts.key(config.service, "bundle")
    made = [event.materialization for event in done.get_asset_materialization_events() if event.materialization.asset_key == wanted]
    return str(made[-1].metadata["lastgood/bundle"].value)


def hold_beside(context: dg.OpExecutionContext, config: Retrain, digest: str, *, settings: Settings) -> None:
    """Record how the new bundle and stable perform on the labelled rows since the alarm. It decides nothing: the phases do.

    The new bundle may have been trained on some of these rows, and the record says so.
    """
    from lastgood import errors, release
    from lastgood.drift import bundle_comparison as drift_compare
    from lastgood.drift import watch as drift_watch
    from lastgood.system import clock

    try:
        with release.open_context(settings, create=False, service=config.service) as ctx:
            now = clock.now()
            what = drift_watch.watch_of_service(ctx, config.service)
            alarm = drift_watch.open_alarm(list(drift_watch.window_reports(ctx, what))) if what else None
            if what is None or alarm is None:
                return
            said = drift_compare.compare_with_stable(ctx, what, digest, since=alarm, now=now)
            ctx.ledger.evaluate(digest, kind=drift_compare.KIND, report=said.to_json(), actor=config.actor, now=now)
    except errors.LastgoodError as error:
        context.log.warning(f"not compared with stable: {error}")
        return
    context.log.info(f"compared with stable, on the rows since the alarm (the candidate may have been trained on some of them): {said.why}")

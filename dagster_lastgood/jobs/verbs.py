"""Jobs that change what serves: `promote`, `approve` and `rollback`. Each calls one verb of lastgood and reports its outcome.

They run in one process (a separate step process would cost seconds) and have no pool and no concurrency tag: a
stuck promotion must not delay a rollback. The ledger's compare-and-set keeps them apart. The timeline of
`<service>/release` is written by the sensor `release_mirror` from the ledger, so it also shows changes made elsewhere.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from lastgood.settings import Settings
from lastgood.system import clock

if TYPE_CHECKING:
    from lastgood.core.state import State
    from lastgood.release import PhaseOverride, Request
    from lastgood.release.convergence import Outcome

NEVER_AGAIN = {"dagster/max_retries": "0"}
"""A run that died after its commit must not be restarted automatically: it would roll back one bundle further."""


STALE_S = 900.0
"""A release or rollback that waited longer, in seconds, is refused: whoever requested it has long moved on. A run
waits if DAGSTER_HOME has no dagster.yaml and no daemon is running, and would start when somebody opens the UI hours later."""


GOES_ON = "the controller continues the release"


class Promote(dg.Config):
    """Which bundle to release."""

    service: str = Field(description="Service to release the bundle on.")
    bundle: str = Field(description="Bundle to release: its id, a unique prefix of it (4 hex digits or more), or an alias.")
    reason: str = Field(description="Why; recorded in the release history.")
    override: str | None = Field(default=None, description="Why a quarantine of this bundle may be lifted; omit to respect it.")
    expected: int | None = Field(default=None, description="Refuse if the service is no longer at this revision.")
    actor: str = Field(default="dagster", description="Who makes this change; recorded in the release history.")
    strategy: str | None = Field(
        default=None, description="Use these phases instead of the bundle's own, like 'shadow,canary:5,canary:25,approval', or 'none'."
    )
    skip_analysis: bool = Field(default=False, description="In an emergency: skip all remaining phases.")
    wait_s: float = Field(
        default=60.0,
        ge=0,
        description="Seconds to wait for the phases, and then for the slower layers; the controller continues after that.",
    )


class Approve(dg.Config):
    """The release that a person approves."""

    service: str = Field(description="Service whose candidate waits for approval.")
    reason: str = Field(description="Why; recorded in the release history.")
    expected: int | None = Field(default=None, description="Refuse if the service is no longer at this revision.")
    actor: str = Field(default="dagster", description="Who approves; recorded in the release history.")
    wait_s: float = Field(default=10.0, ge=0, description="Seconds to wait for the layers to follow the new revision.")


class RollBack(dg.Config):
    """The service to roll back, and why."""

    service: str = Field(description="Service to roll back.")
    reason: str = Field(description="Why; recorded in the release history and on the quarantined bundle.")
    to: str | None = Field(default=None, description="Bundle to roll back to; omit for the newest good bundle that was stable.")
    expected: int | None = Field(default=None, description="Refuse if the service is no longer at this revision.")
    actor: str = Field(default="dagster", description="Who makes this change; recorded in the release history.")
    wait_s: float = Field(default=10.0, ge=0, description="Seconds to wait for the slower layers after the traffic has moved.")


@dg.op(description="Release a bundle: verify it, start its workers, run its phases and gates, cut over; the previous bundle stays warm.")
def promote(context: dg.OpExecutionContext, config: Promote, settings: dg.ResourceParam[Settings]) -> None:
    """Report the outcome of the verb `promote`."""
    from lastgood import release
    from lastgood.release import convergence

    def verb() -> "Outcome":
        way = _way(config)
        with release.open_context(settings, create=False, service=config.service) as ctx:
            planned = ctx.ledger.state(config.service)
            digest = ctx.ledger.resolve(config.service, config.bundle)
            wanted = convergence.Promotion(bundle=digest, override=config.override, way=way)
            return convergence.carry_out(ctx, config.service, wanted, _request(config, planned=planned), wait_s=config.wait_s)

    report(context, verb)


def _way(config: Promote) -> "PhaseOverride":
    """The phase override for the promotion. Raises UsageError."""
    from lastgood import errors, release
    from lastgood.service import strategy

    if config.skip_analysis and not config.reason.strip():
        raise errors.UsageError("skip_analysis requires a reason, which the audit trail keeps; give one")
    try:
        chain = None if config.strategy is None else strategy.from_text(config.strategy)
    except ValueError as error:
        raise errors.UsageError(str(error)) from error
    return release.PhaseOverride(strategy=chain, skip=config.skip_analysis)


@dg.op(description="Approve the candidate that waits for approval; the controller then continues the release.")
def approve(context: dg.OpExecutionContext, config: Approve, settings: dg.ResourceParam[Settings]) -> None:
    """Report the outcome of the verb `approve`."""
    from lastgood import errors, release
    from lastgood.release import convergence

    def verb() -> "Outcome":
        if not config.reason.strip():
            raise errors.UsageError("an approval requires a reason, which the audit trail keeps; give one")
        with release.open_context(settings, create=False, service=config.service) as ctx:
            return convergence.carry_out(ctx, config.service, release.approve, _request(config), wait_s=config.wait_s)

    report(context, verb)


@dg.op(description="Roll back to the newest good bundle that was stable, quarantine the bad one, move the traffic.")
def roll_back(context: dg.OpExecutionContext, config: RollBack, settings: dg.ResourceParam[Settings]) -> None:
    """Report the outcome of the verb `rollback`."""
    from lastgood import release
    from lastgood.release import convergence

    def verb() -> "Outcome":
        with release.open_context(settings, create=False, service=config.service) as ctx:
            to = ctx.ledger.resolve(config.service, config.to) if config.to else None
            back = functools.partial(release.roll_back, to=to)
            return convergence.carry_out(ctx, config.service, back, _request(config), wait_s=config.wait_s)

    report(context, verb)


def _request(config: "Promote | Approve | RollBack", *, planned: "State | None" = None) -> "Request":
    """The request: who, why, and the required state of the service; *planned* is its state when the run began."""
    from lastgood.release import Request

    return Request(actor=config.actor, reason=config.reason, expected=config.expected, planned=planned)


def report(context: dg.OpExecutionContext, verb: "Callable[[], Outcome]") -> None:
    """Run *verb* and add its outcome to the run: metadata and a log line, or a failure with its remedy.

    Nothing to do counts as success, and so does a release still in progress: the controller continues the release. A release rejected by
    a gate is a failure. So is traffic that has not followed, although the change is committed.
    """
    from lastgood import errors

    _refuse_stale(context)
    try:
        outcome = verb()
    except errors.NothingToDo as nothing:
        context.log.info(f"nothing to do: {nothing}")
        context.add_output_metadata({"nothing_to_do": str(nothing)})
        return
    except errors.LastgoodError as error:
        raise dg.Failure(
            description=str(error), metadata={"error": type(error).__name__, "changed": error.changed}, allow_retries=False
        ) from None
    behind = [receipt for receipt in outcome.receipts if not receipt.covers(outcome.revision.number)]
    for receipt in behind:
        context.log.warning(f"layer {receipt.layer} is {receipt.status}: {receipt.detail}")
    if any(receipt.layer == "traffic" for receipt in behind):
        raise dg.Failure(
            description=f"revision {outcome.revision.number} is committed, but traffic has not followed; do not run this again, "
            f"see 'lastgood status {outcome.service}'",
            metadata=_metadata(outcome),
            allow_retries=False,
        )
    context.add_output_metadata(_metadata(outcome))
    context.log.info(_ending(outcome))


def _ending(outcome: "Outcome") -> str:
    number, state = outcome.revision.number, outcome.after
    if outcome.under_way:
        share = f" at {state.weight_pct:g} % of the traffic" if state.weight_pct else ""
        return f"{outcome.service} is at revision {number}, phase {state.phase!r}{share}; {GOES_ON}"
    return f"{outcome.verb} of {outcome.service} is done: revision {number} in {outcome.total_ms:.0f} ms"


def _refuse_stale(context: dg.OpExecutionContext) -> None:
    record = context.instance.get_run_record_by_id(context.run_id)
    # Dagster uses the machine's clock: a clock that was set must not prevent a rollback.
    waited_s = clock.now() - clock.of_machine(record.create_timestamp.timestamp()) if record else 0.0
    if waited_s > STALE_S:
        raise dg.Failure(
            f"this run was requested {waited_s / 60:.0f} minutes ago and has waited in a queue since, so nothing was changed; "
            "check the service, and launch the run again if it is still wanted",
            allow_retries=False,
        )


def _metadata(outcome: "Outcome") -> dict[str, Any]:
    rows = [
        dg.TableRecord({"layer": receipt.layer, "status": receipt.status, "ms": float(receipt.ms), "detail": receipt.detail or ""})
        for receipt in outcome.receipts
    ]
    columns = [dg.TableColumn("layer"), dg.TableColumn("status"), dg.TableColumn("ms", "float"), dg.TableColumn("detail")]
    return {
        "lastgood/revision": outcome.revision.number,
        "lastgood/bundle": outcome.after.stable or "no bundle serves",
        "from": outcome.before.stable or "no bundle served",
        "phase": outcome.after.phase,
        "weight_pct": float(outcome.after.weight_pct),
        "under_way": GOES_ON if outcome.under_way else "no",
        "commit_ms": outcome.commit_ms,
        "traffic_ms": outcome.traffic_ms,
        "total_ms": outcome.total_ms,
        "layers": dg.MetadataValue.table(rows, schema=dg.TableSchema(columns)),
        "undo": outcome.undo or "this cannot be undone",
        "outcome": dg.MetadataValue.json(outcome.to_json()),
    }


@dg.graph(name="promotion")
def _promotion() -> None:
    promote()


@dg.graph(name="approval")
def _approval() -> None:
    approve()


# Wrapped in graphs: a job made of an op of its own name is refused, and both names are what people type.
promote_job = _promotion.to_job(
    name="promote",
    executor_def=dg.in_process_executor,
    description='Release one bundle: {"ops": {"promote": {"config": {"service": "flights", "bundle": "3f9c2e1a", "reason": "…"}}}}.',
)


approve_job = _approval.to_job(
    name="approve",
    executor_def=dg.in_process_executor,
    description='Approve: {"ops": {"approve": {"config": {"service": "flights", "reason": "…"}}}}.',
)


@dg.job(
    name="rollback",
    executor_def=dg.in_process_executor,
    tags=NEVER_AGAIN,
    description='Roll back: {"ops": {"roll_back": {"config": {"service": "flights", "reason": "…"}}}}.',
)
def rollback_job() -> None:
    """Roll one service back to the newest good bundle that was stable."""
    roll_back()


def all_jobs() -> list[dg.JobDefinition]:
    """The jobs that work on any service; a service's own build job comes with its assets."""
    return [promote_job, approve_job, rollback_job]

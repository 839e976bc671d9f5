"""Verbs that change what serves. Each shows its plan, asks for confirmation on a terminal, and ends with the outcome and its undo."""

from __future__ import annotations

import functools
import time
from typing import Any

import click

from lastgood import errors, release
from lastgood.bundle import manifest
from lastgood.cli import common, plans
from lastgood.cli import outcome as cli_outcome
from lastgood.core.state import State
from lastgood.release import convergence
from lastgood.service import strategy as strategies


@click.command()
@common.service_argument
@common.bundle_argument()
@click.option("--override-quarantine", is_flag=True, help="Release BUNDLE although it is quarantined; requires --reason.")
@click.option(
    "--strategy", default=None, help="Use these phases instead of the bundle's own, e.g. 'shadow,canary:5,canary:25,approval', or 'none'."
)
@click.option("--skip-analysis", is_flag=True, help="In an emergency: skip all remaining phases; requires --reason.")
@common.change_options
def promote(service: str, bundle: str, override_quarantine: bool, strategy: str | None, skip_analysis: bool, **options: Any) -> int:
    """Release BUNDLE: verify it, start its workers, run its phases and gates, then give it all traffic.

    Waits up to --timeout seconds; the controller continues the release after that. Exit code 5 if a gate rejected it, 6 if it is still in progress.
    """
    for flag, given in (("--override-quarantine", override_quarantine), ("--skip-analysis", skip_analysis)):
        if given and not options["reason"]:
            raise errors.UsageError(f"{flag} requires --reason, which the audit trail keeps")
    override = options["reason"] if override_quarantine else None
    way = release.PhaseOverride(strategy=parse_strategy(strategy) if strategy is not None else None, skip=skip_analysis)
    with common.context(read_only=options["dry_run"], service=service) as ctx:
        digest = ctx.ledger.resolve(service, bundle)
        state = ctx.ledger.state(service, about=(digest,))
        release.check_expected(ctx, state, options["expected"])
        if options["dry_run"]:
            plans.check_promotion(ctx, state, digest, override=override, way=way)
        plan = plans.promotion(ctx, state, digest, way=way)
        if _only_shown(plan, options):
            return 0
        common.confirm(f"Release {manifest.short(digest)} now?", yes=options["yes"])
        verb = convergence.Promotion(bundle=digest, override=override, way=way)
        return _carry_out(ctx, service, verb, _request(options, "promoted by hand", planned=state), options)


def parse_strategy(text: str) -> strategies.Chain:
    """The chain given by `--strategy`. Raises UsageError."""
    try:
        return strategies.from_text(text)
    except ValueError as error:
        raise errors.UsageError(str(error)) from error


@click.command()
@common.service_argument
@common.change_options
def approve(service: str, **options: Any) -> int:
    """Approve the candidate that waits for approval. Who approved it, when and why is kept permanently."""
    if not options["reason"]:
        raise errors.UsageError("an approval requires --reason, which the audit trail keeps")
    with common.context(service=service) as ctx:
        request = _request(options)
        state = ctx.ledger.state(service)
        if _dry(options, f"would approve {manifest.short(state.candidate) if state.candidate else 'nothing'}"):
            return 0
        return _carry_out(ctx, service, release.approve, request, options)


@click.command()
@common.service_argument
@common.bundle_argument(required=False)
@click.option(
    "--to-revision", type=common.revision_number(), default=None, help="Roll back to the bundle that was stable at this revision."
)
@common.change_options
def rollback(service: str, bundle: str | None, to_revision: int | None, **options: Any) -> int:
    """Roll back immediately to the newest bundle that was stable, verifies and is not quarantined; or to BUNDLE.

    Cancels a release in progress, quarantines the bundle it leaves, and requires no proof of cause.
    """
    began = time.perf_counter()
    with common.context(read_only=options["dry_run"], service=service) as ctx:
        to = _target(ctx, service, bundle=bundle, to_revision=to_revision)
        state = ctx.ledger.state(service, about=(to,) if to else ())
        release.check_expected(ctx, state, options["expected"])
        plan = _rollback_plan(ctx, state, to=to, options=options)
        if _only_shown(plan, options):
            return 0
        asked = common.confirm("Roll back now?", yes=options["yes"])
        began = time.perf_counter() if asked else began
        request = _request(options, "rolled back by hand", planned=state if asked else None)
        return _carry_out(ctx, service, functools.partial(release.roll_back, to=to), request, options, began=began)


@click.command()
@common.service_argument
@common.change_options
def hold(service: str, **options: Any) -> int:
    """Block releases of SERVICE until 'release-hold'. Rollbacks are still possible."""
    if not options["reason"]:
        raise errors.UsageError("a hold requires --reason, which others see with it")
    with common.context(service=service) as ctx:
        request = _request(options)
        if _dry(options, f"would hold {service}"):
            return 0
        return _carry_out(ctx, service, release.hold, request, options)


@click.command()
@common.service_argument
@common.change_options
def release_hold(service: str, **options: Any) -> int:
    """Allow releases of SERVICE again."""
    with common.context(service=service) as ctx:
        request = _request(options, "hold released")
        if _dry(options, f"would allow releases of {service} again"):
            return 0
        return _carry_out(ctx, service, release.release_hold, request, options)


@click.command()
@common.service_argument
@common.bundle_argument()
@click.option("--lift", "lifts", is_flag=True, help="Lift the quarantine instead.")
@common.change_options
def quarantine(service: str, bundle: str, lifts: bool, **options: Any) -> int:
    """Forbid releases of BUNDLE until a person lifts the quarantine. If BUNDLE serves, the service is rolled back."""
    if not options["reason"]:
        raise errors.UsageError("a quarantine requires --reason, which others see with it")
    with common.context(service=service) as ctx:
        digest = ctx.ledger.resolve(service, bundle)
        request = _request(options)
        if _dry(options, f"would {'lift the quarantine of' if lifts else 'quarantine'} {manifest.short(digest)}"):
            return 0
        if lifts:
            return _carry_out(ctx, service, functools.partial(release.lift, digest=digest), request, options)
        common.confirm(f"Quarantine {manifest.short(digest)}?", yes=options["yes"])
        verb = functools.partial(release.condemn, digest=digest, kind="quarantined")
        return _carry_out(ctx, service, verb, request, options)


@click.command()
@common.service_argument
@common.bundle_argument()
@click.option("--take-down", is_flag=True, help="If there is no rollback target, stop answering.")
@common.change_options
def revoke(service: str, bundle: str, take_down: bool, **options: Any) -> int:
    """Forbid BUNDLE from ever serving again; this cannot be undone. If BUNDLE serves, the service is rolled back."""
    if not options["reason"]:
        raise errors.UsageError("a revocation requires --reason, for example the number of a vulnerability")
    with common.context(service=service) as ctx:
        digest = ctx.ledger.resolve(service, bundle)
        if _dry(options, f"would revoke {manifest.short(digest)} permanently"):
            return 0
        common.confirm(f"Revoke {manifest.short(digest)} permanently?", yes=options["yes"])
        verb = functools.partial(release.condemn, digest=digest, kind="revoked", take_down=take_down)
        return _carry_out(ctx, service, verb, _request(options), options)


def _rollback_plan(ctx: release.Context, state: State, *, to: str | None, options: dict[str, Any]) -> plans.Plan:
    """The plan of the rollback. Raises NothingToDo if a colleague has just rolled back, even if no further target is left."""
    try:
        return plans.rollback(ctx, state, to=to, reason=options["reason"] or "rolled back by hand")
    except errors.NotAllowed:
        if to is None and options["expected"] is None:
            release.check_not_the_same_alarm(ctx, state)
        raise


def _target(ctx: release.Context, service: str, *, bundle: str | None, to_revision: int | None) -> str | None:
    if bundle is not None and to_revision is not None:
        raise errors.UsageError("give a bundle or --to-revision, not both")
    if to_revision is None:
        return ctx.ledger.resolve(service, bundle) if bundle else None
    stable = ctx.ledger.revision(service, to_revision).state.stable
    if stable is None:
        raise errors.NotFound(f"nothing was stable at revision {to_revision}; see 'lastgood history {service}'")
    return stable


def _only_shown(plan: plans.Plan, options: dict[str, Any]) -> bool:
    if options["dry_run"]:
        common.emit(plan.to_json(), as_json=options["as_json"], text=plan.text)
        return True
    if not options["as_json"]:
        common.say(plan.text())
    return False


def _dry(options: dict[str, Any], text: str) -> bool:
    if options["dry_run"]:
        common.emit({"schema": "lastgood.plan/v1", "text": text}, as_json=options["as_json"], text=lambda: text)
    return bool(options["dry_run"])


def _request(options: dict[str, Any], reason: str = "", *, planned: State | None = None) -> release.Request:
    """The request: who and why, with *reason* as the default; *planned* is the state of the plan that was shown."""
    return release.Request(
        actor=common.actor(options["actor"]), reason=options["reason"] or reason, expected=options["expected"], planned=planned
    )


def _carry_out(
    ctx: release.Context,
    service: str,
    verb: convergence.Verb,
    request: release.Request,
    options: dict[str, Any],
    *,
    began: float | None = None,
) -> int:
    outcome = convergence.carry_out(
        ctx,
        service,
        verb,
        request,
        wait_s=options["timeout_s"] if options["wait"] else 0.0,
        progress=cli_outcome.progress(options["as_json"]),
        began=began,
    )
    return cli_outcome.finish(outcome, as_json=options["as_json"], waited=options["wait"])

"""A verb carried out from start to finish: guard, commit, convergence of the layers, and the outcome layer by layer.

`carry_out` is the one place where these are composed, for the command line, the Dagster jobs and the drift decision. The command
moves traffic itself, at once, so that a rollback needs no controller. The slower layers are the controller's; if the controller is
dead, the command also looks after the workers and reports what is left undone.

What does not belong here: deciding anything (`core`), what each verb checks (`promotion`, `rollback`, `holds`), the endless loop
(`controller`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from lastgood import errors, ledger, release
from lastgood.bundle import manifest
from lastgood.core.state import State
from lastgood.hosts import heartbeat, lease, readiness
from lastgood.layers import base, receipts, reconcile
from lastgood.layers import desired as desired_state
from lastgood.layers.infrastructure.local import warm_ups
from lastgood.layers.receipts import Receipt, RequestsInFlight
from lastgood.ledger import audit
from lastgood.model_retirement import records
from lastgood.release import advance
from lastgood.service import frozen as frozen_service
from lastgood.service import schema, timeouts
from lastgood.settings import Settings
from lastgood.system import failpoints
from lastgood.system import processes as system_processes

log = logging.getLogger("lastgood.converge")

STEP_S = 0.05
HERE = ("infrastructure", "traffic")
"""Layers that a command can converge itself, because their adapters are light."""

Progress = Callable[[Receipt], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of a change. `receipts` has one receipt per configured layer; times are milliseconds.

    `traffic_ms` runs from the commit until the proxy has acknowledged the new routes; None if it has not.
    """

    service: str
    verb: str
    before: State
    revision: ledger.Revision
    receipts: tuple[Receipt, ...]
    commit_ms: float
    traffic_ms: float | None
    total_ms: float
    warnings: tuple[str, ...] = ()
    """What a person should know about the outcome, one sentence each with its remedy."""

    @property
    def requests(self) -> RequestsInFlight:
        """What became of the requests in flight on the leaving workers, as far as known."""
        told = next((receipt for receipt in self.receipts if receipt.layer == "infrastructure"), None)
        return receipts.requests(told, since=self.revision.number)

    @property
    def after(self) -> State:
        return self.revision.state

    @property
    def converged(self) -> bool:
        return all(receipt.covers(self.revision.number) for receipt in self.receipts)

    @property
    def serving(self) -> dict[str, float] | None:
        """The bundles that get requests, in percent, as reported by the proxy after the change; None if it did not report."""
        return receipts.serving({receipt.layer: receipt for receipt in self.receipts})

    @property
    def under_way(self) -> bool:
        """Whether a candidate is still being released; the controller continues with it."""
        return self.after.candidate is not None

    @property
    def undo(self) -> str | None:
        """The exact command that undoes this change; None if it cannot be undone or changed nothing that serves."""
        if self.before.stable == self.after.stable or self.before.stable is None:
            return None
        if self.verb == "promote":
            return f"lastgood rollback {self.service}"
        old = manifest.short(self.before.stable)
        mark = self.after.marks.get(self.before.stable)
        if mark is None or mark.kind == "revoked":
            return None
        held = f"lastgood release-hold {self.service} && " if self.after.hold else ""
        return f"{held}lastgood promote {self.service} {old} --override-quarantine --reason 'undo revision {self.revision.number}'"

    def to_json(self) -> dict[str, Any]:
        """The stable form printed by `--json`."""
        return {
            "schema": "lastgood.outcome/v1",
            "service": self.service,
            "verb": self.verb,
            "revision": self.revision.number,
            "from": self.before.stable,
            "to": self.after.stable,
            "quarantined": [mark.bundle for mark in self.revision.marks if mark.kind == "quarantined"],
            "phase": self.after.phase,
            "weight_pct": self.after.weight_pct,
            "under_way": self.under_way,
            "phase_until": self.after.phase_until,
            "commit_ms": self.commit_ms,
            "traffic_ms": self.traffic_ms,
            "total_ms": self.total_ms,
            "converged": self.converged,
            "serving": self.serving,
            "layers": [receipt.to_json() for receipt in self.receipts],
            "requests": self.requests.to_json(),
            "warnings": list(self.warnings),
            "undo": self.undo,
            "next": f"lastgood status {self.service}",
        }


def controller_record(settings: Settings) -> system_processes.Record | None:
    """The controller's process; None if none is running or it is frozen, so that its work is not being done."""
    life = heartbeat.controller_health(settings)
    return life.record if life is not None and not life.frozen else None


class Verb(Protocol):
    """One verb of `release`, complete except for the request."""

    def __call__(self, ctx: release.Context, service: str, *, request: release.Request) -> release.Committed | None:
        """Decide and commit; None if it is done already."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """The verb that releases `bundle`; it is carried out once the cut-over is done. See `release.propose`."""

    bundle: str
    override: str | None = None
    way: release.PhaseOverride = release.OWN

    def __call__(self, ctx: release.Context, service: str, *, request: release.Request) -> release.Committed | None:
        """Make the bundle the candidate. Raises Unavailable if it has phases to pass and no controller is running to measure them."""
        _check_measured(ctx, ctx.ledger.state(service, about=(self.bundle,)), self.bundle, way=self.way)
        return release.propose(ctx, service, self.bundle, request, override=self.override, way=self.way)


def carry_out(
    ctx: release.Context,
    service: str,
    verb: Verb,
    request: release.Request,
    *,
    wait_s: float = 60.0,
    progress: Progress = lambda receipt: None,
    began: float | None = None,
) -> Outcome:
    """The outcome of *verb*: guard, decision, transaction, and convergence of the layers. Every change of a service goes through here.

    Returns when every layer has followed or *wait_s* seconds are over; the controller continues on its own. Raises Conflict, before any
    other check, if the service is not at the revision that *request* expects. *began* is `time.perf_counter()` at the start of the command.

    A Promotion blocks until the cut-over; if it has phases to pass first, for at most *wait_s* seconds. Repeating it for the same bundle
    resumes where it was. It raises PromotionFailed if the workers do not become ready within the service's own limit, and GateFailed if a
    gate rejects the candidate, in which case stable was not touched.
    """
    began = time.perf_counter() if began is None else began
    before = ctx.ledger.state(service)
    release.check_expected(ctx, before, request.expected)
    with _layers_of(ctx, service) as layers:
        committed = verb(ctx, service, request=request) or _found_done(ctx, before)
        name = committed.revision.verb
        if isinstance(verb, Promotion):
            deadline = time.monotonic() + max(wait_s, 0.0)
            reached = _until_cut_over(ctx, service, verb.bundle, layers=layers, actor=request.actor, deadline=deadline)
            committed, name = dataclasses.replace(reached, before=before), "promote"
        outcome = _make_layers_follow(ctx, committed, layers=layers, verb=name, began=began, wait_s=wait_s, progress=progress)
        _write_receipt(ctx, outcome, actor=request.actor)
        return outcome


def promote(
    ctx: release.Context,
    service: str,
    digest: str,
    *,
    reason: str,
    actor: str,
    expected: int | None = None,
    way: release.PhaseOverride = release.OWN,
    wait_s: float = 60.0,
) -> Outcome:
    """Release *digest* when nobody has reviewed a plan, as after a build; see `carry_out`."""
    request = release.Request(actor=actor, reason=reason, expected=expected)
    return carry_out(ctx, service, Promotion(bundle=digest, way=way), request, wait_s=wait_s)


@contextlib.contextmanager
def _layers_of(ctx: release.Context, service: str) -> Iterator[Mapping[str, base.Layer]]:
    """The layers of *service*, opened and observed before a commit, so that nothing has to be loaded after it."""
    layers = reconcile.build(ctx.settings, service)
    try:
        state = ctx.ledger.state(service)
        for digest in filter(None, (state.stable, state.previous)):
            with contextlib.suppress(errors.Damaged, errors.NotFound):
                frozen_service.read(ctx.ledger.bundle(digest), store=ctx.store)
        if "traffic" in layers:
            with contextlib.suppress(base.LayerError):
                layers["traffic"].observe()
        yield layers
    finally:
        for layer in layers.values():
            layer.close()


def _until_cut_over(
    ctx: release.Context,
    service: str,
    digest: str,
    *,
    layers: Mapping[str, base.Layer],
    actor: str,
    deadline: float,
) -> release.Committed:
    """Drive the release to its cut-over, or see that the controller has; if phases are left at *deadline*, return where it is.

    This host's workers are looked after, and the ledger records which are ready; the holder of the lease decides.
    """
    processes = layers.get("infrastructure")
    name, holder = lease.lease_name(service), lease.holder(ctx.settings)
    with lease.given_up(ctx.ledger, name, holder=holder):
        while True:
            state = ctx.ledger.state(service)
            if state.stable == digest:
                return _found_done(ctx, state)
            if state.candidate != digest:
                raise _not_taken_over(ctx, service, digest)
            if state.chain and (state.phase != "preparing" or time.monotonic() >= deadline):
                if time.monotonic() >= deadline:
                    return _found_done(ctx, state)
                time.sleep(STEP_S)
                continue
            view = _look_after(ctx, state, processes)
            fence = lease.decide(ctx.ledger, state, view, holder=holder, ttl_s=ctx.settings.controller.lease_s)
            if fence is not None:
                trouble = "; ".join(filter(None, (view.why(arm) for arm in state.awaited if view.word(arm) == "not ready")))
                known = readiness.arms_by_readiness(view, state.awaited)
                committed = advance.advance(
                    ctx, service, ready=known.ready, unknown=known.unknown, actor=actor, trouble=trouble, fence=fence
                )
                if committed is not None and committed.revision.state.stable == digest:
                    return committed
            time.sleep(STEP_S)


def _look_after(ctx: release.Context, state: State, processes: base.Layer | None) -> readiness.View:
    """Reconcile this host's workers once and record in the ledger which are ready; returns what all hosts report then."""
    now = ctx.clock()
    if isinstance(processes, base.Processes):
        wanted = desired_state.read(state, ledger=ctx.ledger, store=ctx.store, settings=ctx.settings)
        _report(ctx, wanted.name, reconcile.attempt(processes, wanted))
        with contextlib.suppress(base.LayerError):  # a host that cannot observe its workers reports nothing
            seen = base.readiness_of(processes)
            return readiness.report(
                ctx.ledger,
                state.service,
                settings=ctx.settings,
                ready=seen.ready,
                wanted=wanted.warm,
                troubles=seen.troubles,
                now=ctx.clock(),
            )
    return readiness.read(ctx.ledger, state.service, settings=ctx.settings, now=now)


def _check_measured(ctx: release.Context, state: State, digest: str, *, way: release.PhaseOverride) -> None:
    """Raise Unavailable if *digest* has phases to pass and no process would measure them."""
    if state.candidate == digest or controller_record(ctx.settings) is not None:
        return
    if ctx.ledger.lease_holder(lease.lease_name(state.service), now=ctx.clock()) is not None:
        return  # a controller on another host
    with contextlib.suppress(errors.NotFound, errors.Damaged):  # the proposal itself reports the fault
        frozen = frozen_service.read(ctx.ledger.bundle(digest), store=ctx.store)
        if frozen is not None and release.chain_of(state, digest, frozen, way=way):
            raise errors.Unavailable(
                f"{manifest.short(digest)!r} has phases to pass, but no controller is running to measure them; start it with 'lastgood up', "
                "or skip them with --skip-analysis and --reason"
            )


def _found_done(ctx: release.Context, state: State) -> release.Committed:
    return release.Committed(before=state, revision=ctx.ledger.revision(state.service, state.revision), ms=0.0)


def _not_taken_over(ctx: release.Context, service: str, digest: str) -> errors.LastgoodError:
    """The error that matches the revision by which *digest* ceased to be the candidate."""
    last = next(r for r in ctx.ledger.history(service, limit=20) if r.state.candidate != digest and r.verb != "verified")
    what = f"bundle {manifest.short(digest)!r} did not become stable: revision {last.number} by {last.actor}, {last.verb}: {last.reason}"
    if last.verb == "rollback" and any(mark.bundle == digest for mark in last.marks) and last.evidence.get("verdicts"):
        return errors.GateFailed(f"{what}; stable was not touched; see 'lastgood report {service}'")
    if last.verb != "abandon":
        return errors.Conflict(f"{what}; check 'lastgood status {service}' and decide again")
    return errors.PromotionFailed(f"{what}; stable was not touched; read the worker's log in {ctx.settings.logs(service)}")


def _make_layers_follow(
    ctx: release.Context,
    committed: release.Committed,
    *,
    layers: Mapping[str, base.Layer],
    verb: str,
    began: float,
    wait_s: float,
    progress: Progress,
) -> Outcome:
    """Make the layers follow a committed change."""
    flipped = time.perf_counter()
    state = committed.revision.state
    wanted = desired_state.read(state, ledger=ctx.ledger, store=ctx.store, settings=ctx.settings)
    deadline = time.monotonic() + max(wait_s, 0.0)
    answers = _flip(ctx, wanted, layers=layers, deadline=deadline, progress=progress)
    traffic = answers.get("traffic")
    traffic_ms = round((time.perf_counter() - flipped) * 1000, 3) if traffic and traffic.covers(state.revision) else None
    failpoints.failpoint("release.after_traffic")
    _wait_for_others(ctx, wanted, layers=layers, answers=answers, deadline=deadline, progress=progress)
    told = tuple(answers[name] for name in layers if name in answers)
    return Outcome(
        service=state.service,
        verb=verb,
        before=committed.before,
        revision=committed.revision,
        receipts=told,
        warnings=_slow(ctx, wanted) if verb == "promote" else (),
        commit_ms=committed.ms,
        traffic_ms=traffic_ms,
        total_ms=round((time.perf_counter() - began) * 1000, 3),
    )


def _flip(
    ctx: release.Context, wanted: base.Desired, *, layers: Mapping[str, base.Layer], deadline: float, progress: Progress
) -> dict[str, Receipt]:
    """Move the traffic now; start a worker first only if none is ready for it."""
    answers: dict[str, Receipt] = {}
    traffic, processes = layers.get("traffic"), layers.get("infrastructure")
    if traffic is None:
        return answers
    receipt = reconcile.attempt(traffic, wanted, look_first=False)
    while not receipt.covers(wanted.revision):
        if processes is not None:
            answers["infrastructure"] = _report(ctx, wanted.name, reconcile.attempt(processes, wanted))
            receipt = reconcile.attempt(traffic, wanted, look_first=False)
        if receipt.covers(wanted.revision) or time.monotonic() >= deadline:
            break
        time.sleep(STEP_S)
    answers["traffic"] = _report(ctx, wanted.name, receipt)
    progress(receipt)
    return answers


def _wait_for_others(
    ctx: release.Context,
    wanted: base.Desired,
    *,
    layers: Mapping[str, base.Layer],
    answers: dict[str, Receipt],
    deadline: float,
    progress: Progress,
) -> None:
    alive = controller_record(ctx.settings) is not None
    if not alive and "infrastructure" in layers:
        answers["infrastructure"] = _report(ctx, wanted.name, reconcile.attempt(layers["infrastructure"], wanted))
        progress(answers["infrastructure"])
    waiting = [name for name in layers if not (name in answers and answers[name].covers(wanted.revision))]
    while waiting and alive:
        told = receipts.read(ctx.settings.run(wanted.name) / "layers")
        for name in list(waiting):
            if name in told and told[name].covers(wanted.revision):
                answers[name] = told[name]
                progress(told[name])
                waiting.remove(name)
        if time.monotonic() >= deadline:
            break
        time.sleep(STEP_S if waiting else 0)
    for name in waiting:
        if name not in answers or alive:
            answers[name] = _lagging(ctx, wanted, name, alive=alive)
            progress(answers[name])


def _slow(ctx: release.Context, wanted: base.Desired) -> tuple[str, ...]:
    """A warning that the warm-up of the promoted bundle took longer than one try may take, if its worker reported so."""
    digest = wanted.candidate or wanted.stable
    told = receipts.read(ctx.settings.run(wanted.name) / "layers").get("infrastructure")
    workers = told.facts.get("workers") if told else None
    worker = workers.get(digest) if isinstance(workers, Mapping) else None  # an adapter may report fewer details
    measured = worker.get("warm_up_s") if isinstance(worker, Mapping) else None
    if measured is None and digest is not None:
        measured = warm_ups.read(ctx.settings.run(wanted.name), digest)
    return tuple(slow_warnings(ctx, wanted.service, digest, warm_up_s=measured)) if digest else ()


def slow_warnings(ctx: release.Context, serving: schema.Service | None, digest: str, *, warm_up_s: float | None) -> list[str]:
    """Problems with the time limits for *digest*: by its own settings, and by those of the *serving* bundle while that has the routes."""
    own = None
    with contextlib.suppress(errors.NotFound, errors.Damaged):
        own = frozen_service.read(ctx.ledger.bundle(digest), store=ctx.store)
    known = [] if own is None else timeouts.notes(own.traffic, pins=records.pins(ctx.ledger.bundle(digest)))
    for settings, name in ((own, "its own settings"), (serving if serving != own else None, "stable's settings")):
        said = timeouts.slow(warm_up_s, settings.traffic, of=name) if settings is not None else None
        known += [f"{manifest.short(digest)}: {said}"] if said else []
    return known


def _lagging(ctx: release.Context, wanted: base.Desired, name: str, *, alive: bool) -> Receipt:
    told = receipts.read(ctx.settings.run(wanted.name) / "layers").get(name)
    why = "has not converged yet; the controller keeps trying" if alive else "waits for the controller; start it with 'lastgood up'"
    if told is not None and told.status == "failed" and alive:
        why = f"{told.detail} (the controller keeps trying)"
    return Receipt(
        layer=name,
        status="lagging",
        desired_revision=wanted.revision,
        observed_revision=told.observed_revision if told else None,
        ms=0.0,
        at=ctx.clock(),
        detail=why,
        facts=dict(told.facts) if told else {},
    )


def _write_receipt(ctx: release.Context, outcome: Outcome, *, actor: str) -> None:
    """Write the receipt into the audit trail, and sign a checkpoint of it.

    The change itself is already committed: a disk that has filled up since must not turn a completed rollback into a failed command.
    """
    body = {
        "revision": outcome.revision.number,
        "commit_ms": outcome.commit_ms,
        "traffic_ms": outcome.traffic_ms,
        "layers": {receipt.layer: receipt.status for receipt in outcome.receipts},
    }
    try:
        ctx.ledger.note(outcome.service, kind="receipt", body=body, actor=actor, now=ctx.clock())
        audit.checkpoint(ctx.ledger, outcome.service, ctx.settings.keys)
    except (OSError, errors.LastgoodError) as error:
        log.warning("revision %s is committed, but its receipt is not in the audit trail: %s", outcome.revision.number, error)


def _report(ctx: release.Context, service: str, receipt: Receipt) -> Receipt:
    receipts.write(ctx.settings.run(service) / "layers", receipt)
    return receipt

"""Checks how long the models of a service's bundles will live: recorded when that changes, paged when a model is ending.

For a hosted model every host gets the same answer. A local model may be on one host's disk and not on another's: only a serving host
reports, for itself, and a bundle whose model is on one of them is not gone.

What does not belong here: how the result is used to choose a target (`release.targets`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lastgood import context, errors
from lastgood.bundle.manifest import short
from lastgood.core.state import State
from lastgood.hosts import readiness, vantage
from lastgood.llm import base
from lastgood.model_retirement import providers as models
from lastgood.model_retirement import records
from lastgood.model_retirement.records import Lifetime
from lastgood.paging import once
from lastgood.system import plain

LOCAL = "local"
RENEWED_S = 7 * records.DAY_S
"""Seconds after which an unchanged answer is recorded again, to show that it is still being checked."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The result for one bundle. `role` is stable, candidate, or `way back`; `models` are named provider/model."""

    bundle: str
    role: str
    models: tuple[str, ...]
    lifetime: Lifetime

    def to_json(self) -> dict[str, Any]:
        return {"bundle": self.bundle, "role": self.role, "models": list(self.models), **self.lifetime.to_json()}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result for a service. `risk` says why there is no safe rollback target, if that is so."""

    checked: tuple[Checked, ...]
    risk: str | None

    @property
    def ok(self) -> bool:
        """Whether no bundle that serves or may have to serve is ending."""
        return self.risk is None and all(one.lifetime.status in ("alive", "unknown") for one in self.checked if one.role != "way back")


def check(
    ctx: context.Context, service: str, *, ask: models.Ask | None, now: float, warn_days: float = models.WARN_DAYS, actor: str
) -> Report:
    """Query the serving bundle and every rollback target; record what is new, page models that end within *warn_days*.

    Without *ask* only the dates that came with this version are looked up.
    """
    state = ctx.ledger.state(service)
    blind = _blind(ctx, state, now=now)
    found = []
    for digest, role in _bundles(state):
        pinned = records.pins(ctx.ledger.bundle(digest))
        if not pinned:
            continue
        asked = [_lifetime(pin, ask=ask, now=now, warn_days=warn_days) for pin in pinned]
        ends = [one.ends_at for _, one in asked if one.ends_at is not None]
        worst = max((one for _, one in asked), key=lambda one: records.ORDER.index(one.status))
        lifetime = dataclasses.replace(worst, ends_at=min(ends, default=None))
        if any(pin.get("provider") == LOCAL for pin in pinned):
            lifetime = _of_hosts(ctx, digest, lifetime, blind=blind, actor=actor, now=now)
        else:
            _write_down(ctx, digest, lifetime, actor=actor, now=now)
        found.append(Checked(bundle=digest, role=role, models=tuple(name for name, _ in asked), lifetime=lifetime))
    report = Report(checked=tuple(found), risk=_risk(state, found))
    _tell(ctx, state, report, now=now)
    return report


def _blind(ctx: context.Context, state: State, *, now: float) -> str:
    """Why this host does not report models on its own disk: it serves nothing, and others do; empty if it may."""
    serving = state.stable or state.candidate
    try:
        if serving is not None:
            vantage.check_vantage(ctx, state.service, serving, now=now)
    except errors.Conflict as error:
        return str(error)
    return ""


def _of_hosts(ctx: context.Context, digest: str, found: Lifetime, *, blind: str, actor: str, now: float) -> Lifetime:
    """The hosts' combined result for a bundle with a local model, after recording what this one *found*, unless it is *blind*."""
    if not blind:
        _write_down(ctx, digest, dataclasses.replace(found, host=readiness.host(ctx.settings)), actor=actor, now=now)
    return records.newest(ctx.ledger, digest, now=now) or Lifetime(status="unknown", why=blind)


def _bundles(state: State) -> list[tuple[str, str]]:
    """The bundles that serve, and the rollback targets, newest first."""
    serving = [(digest, role) for digest, role in ((state.stable, "stable"), (state.candidate, "candidate")) if digest]
    back = [digest for digest in state.lineage if digest not in state.marks and digest != state.stable]
    return [*serving, *((digest, "way back") for digest in back)]


def _lifetime(pin: Mapping[str, Any], *, ask: models.Ask | None, now: float, warn_days: float) -> tuple[str, Lifetime]:
    """The name of a pinned model and its lifetime; for a pin that cannot be parsed the lifetime is unknown."""
    name = f"{pin.get('provider')}/{pin.get('model')}"
    try:
        found = models.check(base.parse(pin), now=now, ask=ask, warn_days=warn_days)
    except errors.UsageError as error:
        return name, Lifetime(status="unknown", why=f"{name}: {error}")
    return name, Lifetime(status=found.status, why=f"{name}: {found.why}", ends_at=found.ends_at)


def _write_down(ctx: context.Context, digest: str, found: Lifetime, *, actor: str, now: float) -> None:
    mine = [one for one in ctx.ledger.evaluations(digest) if one.kind == records.KIND and one.report.get("host", "") == found.host]
    known = [(one.report["status"], one.report["ends_at"]) for one in mine[-1:] if abs(now - one.at) < RENEWED_S]
    if known != [(found.status, found.ends_at)]:
        ctx.ledger.evaluate(digest, kind=records.KIND, report=plain.mended(found.to_json()), actor=actor, now=now)


def _risk(state: State, found: list[Checked]) -> str | None:
    """Why no safe rollback target is left: there are targets, and the model of each is gone or ending."""
    asked = {one.bundle: one.lifetime for one in found}
    back = [digest for digest, role in _bundles(state) if role == "way back"]
    if not back or any(digest not in asked or asked[digest].status in ("alive", "unknown") for digest in back):
        return None
    return "; ".join(f"{short(digest)}: {asked[digest].why}" for digest in back)


def _tell(ctx: context.Context, state: State, report: Report, *, now: float) -> None:
    """Page once per bundle and status, and once per stable bundle without a safe target."""
    teller = once.Notifier(ctx, state.service)
    for one in report.checked:
        status = one.lifetime.status
        if one.role != "way back" and status in ("dying", "gone"):
            summary = f"{state.service}: {one.role} {short(one.bundle)} uses a model that is {status}: {one.lifetime.why}; release a bundle that uses another model"
            severity = "critical" if status == "gone" else "warning"
            teller.once(f"liveness-{short(one.bundle)}-{status}", summary, severity=severity, body=one.to_json(), now=now)
    if report.risk is not None:
        summary = f"{state.service}: no safe rollback target is left; release a bundle whose model is still offered: {report.risk}"
        body = {"way_back": [one.to_json() for one in report.checked if one.role == "way back"]}
        teller.once(f"liveness-way-back-{short(state.stable or '')}", summary, severity="warning", body=body, now=now)

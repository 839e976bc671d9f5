"""What a change would do, shown before it is made: the bundle that leaves, the one that replaces it, and what is not undone."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from lastgood import errors, release
from lastgood.bundle import manifest
from lastgood.cli import common
from lastgood.core import transitions
from lastgood.core.events import Marked, Skip
from lastgood.core.state import PlannedPhase, State
from lastgood.hosts import readiness
from lastgood.layers.infrastructure.local import warm_ups
from lastgood.model_retirement import records
from lastgood.release import convergence
from lastgood.service import frozen as frozen_service
from lastgood.system import clock


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One change as it would happen at `revision`; pass that number as `--expect` to bind the change to this plan."""

    verb: str
    service: str
    revision: int
    before: str | None
    after: str | None
    changes: tuple[manifest.PartChange, ...]
    quarantines: tuple[str, ...]
    facts: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        changes = [
            {
                "part": change.name,
                "change": change.change,
                "from": change.before.digest if change.before else None,
                "to": change.after.digest if change.after else None,
                "meta": {key: list(pair) for key, pair in change.meta.items()},
            }
            for change in self.changes
        ]
        return {
            "schema": "lastgood.plan/v1",
            "verb": self.verb,
            "service": self.service,
            "revision": self.revision,
            "from": self.before,
            "to": self.after,
            "parts": changes,
            "quarantines": list(self.quarantines),
            "facts": list(self.facts),
            "not_undone": list(release.NOT_UNDONE) if self.verb == "rollback" else [],
        }

    def text(self) -> str:
        head = f"{self.service}  revision {self.revision}  {self.verb}  {_short(self.before)} -> {_short(self.after)}"
        lines = [head, *diff_lines(self.changes), *(f"  {fact}" for fact in self.facts)]
        lines += [f"  ! quarantined by this: {manifest.short(digest)}" for digest in self.quarantines]
        if self.verb == "rollback":
            lines += [f"  ! not undone: {what}" for what in release.NOT_UNDONE]
        return "\n".join(lines)


def diff_lines(changes: tuple[manifest.PartChange, ...] | list[manifest.PartChange]) -> list[str]:
    """One line per part, with its changed facts below it."""
    signs = {"same": "=", "changed": "~", "added": "+", "removed": "-"}
    lines = []
    for change in changes:
        old = manifest.short(change.before.digest) if change.before else "none"
        new = manifest.short(change.after.digest) if change.after else "none"
        shown = old if change.change == "same" else f"{old} -> {new}"
        lines.append(f"  {signs[change.change]} {change.name:<12} {shown}")
        if change.change == "changed":
            lines += [f"      {key}: {_brief(old_value)} -> {_brief(new_value)}" for key, (old_value, new_value) in change.meta.items()]
    return lines


def promotion(ctx: release.Context, state: State, digest: str, *, way: release.PhaseOverride = release.OWN) -> Plan:
    """What promoting *digest* would change. Does not raise refusals: the verb itself reports them."""
    facts = [] if state.stable else ["first release: no bundle serves yet"]
    facts += _way(ctx, state, digest, way=way)
    if state.stable:
        facts.append(f"{manifest.short(state.stable)} stays warm as previous; 'lastgood rollback {state.service}' returns to it")
        facts += _ends(ctx, state.stable)
    facts += [f"! {warning}" for warning in _time_limits(ctx, state, digest)]
    return _plan(ctx, state, verb="promote", after=digest, quarantines=(), facts=tuple(facts))


def _time_limits(ctx: release.Context, state: State, digest: str) -> list[str]:
    """Problems with the time limits, judged by the worker's reported warm-up if it has run here."""
    serving = None
    with contextlib.suppress(errors.NotFound, errors.Damaged):
        serving = frozen_service.read(ctx.ledger.bundle(state.stable) if state.stable else None, store=ctx.store)
    return convergence.slow_warnings(ctx, serving, digest, warm_up_s=warm_ups.read(ctx.settings.run(state.service), digest))


def _way(ctx: release.Context, state: State, digest: str, *, way: release.PhaseOverride) -> list[str]:
    """The phases that it will pass, or why there are none."""
    with contextlib.suppress(errors.NotFound, errors.Damaged):
        frozen = frozen_service.read(ctx.ledger.bundle(digest), store=ctx.store)
        if frozen is not None and state.stable:
            chain = release.chain_of(state, digest, frozen, way=way)
            return [f"phases: {' -> '.join([*map(phase_text, chain), 'cut-over', f'bake {frozen.release.bake_s:g} s'])}"]
    return []


def phase_text(phase: PlannedPhase) -> str:
    """One phase in a few words: `shadow 100 %`, `canary 5 %`, `approval`."""
    percent = phase.mirror_pct if phase.kind == "shadow" else phase.weight_pct
    return phase.kind if phase.kind == "approval" else f"{phase.kind} {percent:g} %"


def check_promotion(
    ctx: release.Context, state: State, digest: str, *, override: str | None, way: release.PhaseOverride = release.OWN
) -> None:
    """Raise whatever promoting *digest* would raise; changes nothing."""
    if way.skip and state.candidate == digest:
        transitions.step(state, Skip(bundle=digest), clock.now())
        return
    transitions.step(state, release.plan_propose(ctx, state, digest, override=override), clock.now())


def rollback(ctx: release.Context, state: State, *, to: str | None, reason: str) -> Plan:
    """What rolling back would change; raises whatever the rollback itself would raise."""
    event = release.plan_roll_back(ctx, state, reason=reason, to=to)
    after, effects = transitions.step(state, event, clock.now())
    marked = tuple(effect.bundle for effect in effects if isinstance(effect, Marked))
    facts = []
    if after.stable is not None and after.stable != state.stable:
        facts.append(
            f"{manifest.short(after.stable)} was {_last_stable(ctx, state.service, after.stable)}; its bytes were verified just now"
        )
        facts += _warmth(ctx, state, after.stable, named=to is not None)
        facts += _ends(ctx, after.stable)
    if state.candidate is not None:
        share = f"which has {state.weight_pct:g} % of the traffic" if state.weight_pct else "which has no traffic yet"
        facts.append(f"the release of {manifest.short(state.candidate)}, {share}, is cancelled")
        if after.stable != state.stable:
            facts.append(f"to cancel only that release: lastgood rollback {state.service} stable")
    return _plan(ctx, state, verb="rollback", after=after.stable, quarantines=marked, facts=tuple(facts))


def _warmth(ctx: release.Context, state: State, goal: str, *, named: bool) -> list[str]:
    """Whether *goal* could answer at once, by the hosts' reports; which bundle could if it cannot; and which were skipped for it."""
    view = readiness.read(ctx.ledger, state.service, settings=ctx.settings, now=clock.now())
    behind = [digest for digest in state.lineage if digest not in state.marks and digest != state.stable]
    command = f"lastgood rollback {state.service}"
    if view.word(goal) == "ready":
        facts = ["its worker is ready, so traffic follows at once"]
    else:
        facts = [f"! {manifest.short(goal)} is {view.text(goal)}; traffic stays where it is until that bundle is ready"]
        warm = [digest for digest in behind if digest != goal and view.word(digest) == "ready"]
        facts += [f"! {manifest.short(digest)} is warm: {command} {manifest.short(digest)}" for digest in warm[:1]]
    passed = [] if named or goal not in behind else [digest for digest in behind[: behind.index(goal)] if view.failing(digest)]
    facts += [
        f"! skipped: {manifest.short(digest)}, which is {view.text(digest)}; to roll back to it anyway: {command} {manifest.short(digest)}"
        for digest in passed
    ]
    return facts


def _ends(ctx: release.Context, digest: str) -> list[str]:
    """A note that a rollback target can answer only until a certain date, if that is known."""
    known = records.newest(ctx.ledger, digest, now=clock.now())
    ending = known is not None and known.status in ("dying", "gone")
    return [f"! {manifest.short(digest)} uses a model that is {known.status}: {known.why}"] if known and ending else []


def _last_stable(ctx: release.Context, service: str, digest: str) -> str:
    for revision in ctx.ledger.history(service, limit=100):
        if revision.state.stable == digest:
            return f"stable until revision {revision.number} ({common.ago(clock.now() - revision.at)} ago)"
    return "stable earlier"


def _plan(
    ctx: release.Context, state: State, *, verb: str, after: str | None, quarantines: tuple[str, ...], facts: tuple[str, ...]
) -> Plan:
    old = ctx.ledger.bundle(state.stable) if state.stable else None
    new = ctx.ledger.bundle(after) if after else None
    if new is None and old is None:
        raise errors.NothingToDo(f"{state.service!r} serves no bundle; promote one with 'lastgood promote {state.service} BUNDLE'")
    return Plan(
        verb=verb,
        service=state.service,
        revision=state.revision,
        before=state.stable,
        after=after,
        changes=tuple(manifest.diff(old, new)),
        quarantines=quarantines,
        facts=facts,
    )


def _short(digest: str | None) -> str:
    return manifest.short(digest) if digest else "nothing"


def _brief(value: Any) -> str:
    text = common.in_line(str(value))
    return text if len(text) <= 60 else text[:57] + "..."

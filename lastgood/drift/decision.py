"""The decision on an alarm: the serving bundle and the rollback target, both whole, compared on the same recent rows.

    roll_back   the target is better by more than the margin on labelled rows, whatever day they are from; or the serving code
                computes features of the rows that differ from its training, and the target's code does not
    retrain     neither, but the serving bundle is not as good as on its reference, so one that knows the new rows is worth building;
                or the target is better, but as lost as the serving bundle, each compared with its own reference (`fitness`)
    keep        neither: live traffic has changed, and the bundle is as good as before; that state is usual from then on (`kept_state`)
    ask         inconclusive: no labels, no target, or rows that the target does not accept

Drift alone never moves anything: on a year of flights, rolling back at every alarm was wrong more often than right. While an
alarm is open it is looked at repeatedly (`looks`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from lastgood import errors, ledger, release
from lastgood.bundle.manifest import short
from lastgood.core.state import State
from lastgood.drift import bundle_comparison as drift_compare
from lastgood.drift import bundle_reference as drift_reference
from lastgood.drift import comparison, fitness, kept_state, looks, verdict
from lastgood.drift import watch as drift_watch
from lastgood.drift import window as drift_window
from lastgood.drift.looks import ScheduledLook
from lastgood.drift.reference import Sample
from lastgood.hosts import lease, vantage
from lastgood.paging import once
from lastgood.release import convergence
from lastgood.serving import inference_log
from lastgood.system import clock, plain
from lastgood.system.failpoints import failpoint

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from lastgood.serving.app import Loaded

__all__ = ["KIND", "DriftDecision", "ScheduledLook", "carry_out", "decide", "due", "on_rows", "to_build", "way_back"]

DecisionOutcome = Literal["roll_back", "retrain", "keep", "ask"]
KIND = kept_state.KIND
SKEWED, BESIDE = 0.5, 3.0
"""Standard deviations from which a feature differs from training, if the other bundle's is at least so many times nearer to its own."""
FEW = 0.01
"""The code of two bundles counts as equal if its features differ on no more than this share of the rows."""
SHOWN = 8
"""Number of features per bundle that a decision stores."""
LEASE_S = 60.0
"""Seconds after which another process may decide if this one stops midway; the rollback itself takes less than one."""
FEATURE_ROWS = 20_000
"""Number of newest rows whose features are compared."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DriftDecision:
    """The decision about stable, compared with `target`, and its reason; `compared` are the numbers, None without labels."""

    outcome: DecisionOutcome
    why: str
    bundle: str
    target: str | None
    look: ScheduledLook
    compared: comparison.Comparison | None = None
    features: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """By bundle: the features its code computes from the rows, compared with those of its reference."""
    host: str = ""
    """The host whose log was read."""
    kept: kept_state.State | None = None
    """Representative values of the drifted columns, if the outcome is `keep`."""
    planned: State | None = None
    """The state that the decision was based on, for the process that carries it out; not stored."""

    def to_json(self) -> dict[str, Any]:
        kept = dataclasses.asdict(dataclasses.replace(self, planned=None))
        del kept["planned"]
        return {
            **kept,
            "compared": self.compared.to_json() if self.compared else None,
            "features": dict(self.features),
            "kept": {"windows": self.kept.windows, "values": dict(self.kept.values)} if self.kept else None,
        }


def due(ctx: release.Context, what: drift_watch.DriftWatch, *, now: float) -> ScheduledLook | None:
    """The due look at the open alarm that has not been decided; None if there is none. Of several, the newest.

    While a release is in progress its gates decide, and no look is due.
    """
    newest = list(drift_watch.window_reports(ctx, what))[-1:]
    alarm = drift_watch.open_alarm(newest)
    if alarm is None or ctx.ledger.state(what.service).candidate is not None:
        return None
    reports = [one.report for one in ctx.ledger.evaluations(what.bundle) if one.kind == KIND]
    decided = {one["look"]["number"]: str(one["outcome"]) for one in reports if one["look"]["alarm"] == alarm}
    return looks.due(newest[0], decided, what.rules.decide, now=now)


def to_build(ctx: release.Context, what: drift_watch.DriftWatch, alarm: float) -> tuple[ScheduledLook, str] | None:
    """The newest decision about *alarm* and its reason, if it calls for a build.

    That is the case if it is `retrain`, the service wants that automated, and nothing was released since.
    """
    if what.rules.decide.retrain != "build":
        return None
    found = [one for one in ctx.ledger.evaluations(what.bundle) if one.kind == KIND and one.report["look"]["alarm"] == alarm]
    newest = max(found, key=lambda one: one.at, default=None)
    if newest is None or newest.report["outcome"] != "retrain":
        return None
    if ctx.ledger.revision(what.service, ctx.ledger.newest(what.service)).at > newest.at:
        return None
    return ScheduledLook(**newest.report["look"]), str(newest.report["why"])


def decide(ctx: release.Context, what: drift_watch.DriftWatch, look: ScheduledLook) -> DriftDecision:
    """Compare stable with the rollback target on what was answered since the alarm. Changes nothing.

    Raises Conflict if other hosts serve it and this one does not: this host has not seen their answers.
    """
    seen_from = vantage.check_vantage(ctx, what.service, what.bundle, now=clock.now())
    planned = ctx.ledger.state(what.service)
    found = _decide(ctx, what, look, target=way_back(ctx, planned))
    return dataclasses.replace(found, planned=planned, host=seen_from.host, why=f"{found.why}{seen_from.told()}")


def _decide(ctx: release.Context, what: drift_watch.DriftWatch, look: ScheduledLook, *, target: str | None) -> DriftDecision:
    loaded = drift_reference.load(ctx.settings, ctx.ledger.bundle(what.bundle))
    rows = drift_compare.rows(ctx, what, loaded, since=looks.since(look, what.rules.decide), until=look.until)
    drifted = looks.drifted(drift_watch.window_reports(ctx, what), look)
    return on_rows(ctx, what, look, rows, target=target, drifted=drifted)


def on_rows(
    ctx: release.Context,
    what: drift_watch.DriftWatch,
    look: ScheduledLook,
    rows: pa.Table | None,
    *,
    target: str | None,
    drifted: looks.Drifted,
) -> DriftDecision:
    """The comparison of stable with *target* on *rows*, which stable answered. On `keep`, the values stored for *drifted* become usual."""
    if target is None:
        why = "no other bundle was stable, verifies and is not quarantined; build a new one"
        return DriftDecision(outcome="retrain", why=why, bundle=what.bundle, target=None, look=look)
    if rows is None:
        return DriftDecision(outcome="ask", why="no request was answered since the alarm", bundle=what.bundle, target=target, look=look)
    both = {digest: drift_reference.load(ctx.settings, ctx.ledger.bundle(digest)) for digest in (what.bundle, target)}
    features = {digest: _features(ctx, loaded, rows, what) for digest, loaded in both.items()}
    found = DriftDecision(
        outcome="ask",
        why="",
        bundle=what.bundle,
        target=target,
        look=look,
        features={short(digest): _brief(made.beside_training) for digest, made in features.items() if made is not None},
    )
    hard = _hard_break(features[what.bundle], features[target])
    if hard is not None:
        return _on_broken_code(hard, features[what.bundle], features[target], found=found)
    decided = _by_labels(ctx, both, rows, what, target=target, found=found)
    if decided.outcome != "keep":
        return decided
    return dataclasses.replace(decided, kept=_state(ctx, what, rows, drifted, until=look.until))


def _on_broken_code(hard: str, mine: ServedFeatures | None, others: ServedFeatures | None, *, found: DriftDecision) -> DriftDecision:
    """Roll back to code that computes the usual features, unless the world has moved as far from that bundle too."""
    name = short(found.target or "")
    why = fitness.by_features(mine.beside_training if mine else None, others.beside_training if others else None)
    if why is not None:
        return dataclasses.replace(found, outcome="retrain", why=f"{hard}; {name} would not help: {why}")
    return dataclasses.replace(found, outcome="roll_back", why=f"{hard}; the code of {name} computes the usual ones")


def _state(ctx: release.Context, what: drift_watch.DriftWatch, rows: pa.Table, drifted: looks.Drifted, *, until: float) -> kept_state.State:
    """Representative values of the drifted columns in *rows*."""
    bundle = ctx.ledger.bundle(what.bundle)
    reference = drift_reference.of_bundle(ctx.settings, bundle)
    window = drift_window.of_table(rows, time=what.rules.time)
    sample = drift_reference.with_features(ctx.settings, bundle, reference, window)
    return kept_state.state(sample, drifted.columns, until=until, windows=drifted.windows)


def way_back(ctx: release.Context, state: State) -> str | None:
    """The current rollback target, None if there is none."""
    event = release.plan_roll_back(ctx, state, reason="drift", seen=state.stable, automatic=True)
    return next((digest for digest, whole in event.verified.items() if whole), None)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServedFeatures:
    """The features a bundle's own code computes from the rows, by name, and how they compare with those of its training."""

    columns: Mapping[str, npt.NDArray[np.float64]]
    beside_training: verdict.WindowVerdict


def _features(ctx: release.Context, loaded: Loaded, rows: pa.Table, what: drift_watch.DriftWatch) -> ServedFeatures | None:
    """None if the bundle does not report the features of its code, or those of its training."""
    import numpy as np

    trained = drift_reference.features_of_training(ctx.settings, loaded.bundle)
    asked = inference_log.requests(rows.slice(max(0, rows.num_rows - FEATURE_ROWS)), loaded.runtime.Request)
    made = drift_reference.features(loaded, asked)
    if trained is None or made is None:
        return None
    window = Sample(at=np.arange(len(asked), dtype=np.float64), columns=made)
    return ServedFeatures(columns=made, beside_training=verdict.of_window(window, trained, None, what.rules))


def _brief(said: verdict.WindowVerdict) -> dict[str, Any]:
    """The features to report for a bundle: those that differ from training, the farthest first."""
    far = [column for column in said.columns if column.outcome in ("fail", "broken")] or list(said.columns[:1])
    shown = [{"name": one.name, "outcome": one.outcome, "distance": one.distance, "why": one.why} for one in far[:SHOWN]]
    return {"outcome": said.outcome, "rows": said.rows, "columns": shown, "others": len(said.columns) - len(shown)}


def _hard_break(mine: ServedFeatures | None, others: ServedFeatures | None) -> str | None:
    """Why the serving code is broken, if it is and the other's is not: both were run on the same rows.

    Where both compute the same features the code is not the cause, whatever each was trained on: then it is the world, or the season.
    """
    if mine is None or others is None:
        return None
    beside = {one.name: one for one in others.beside_training.columns if one.name in mine.columns}
    found = [
        f"feature {one.name}: {why}"
        for one in mine.beside_training.columns
        if one.name in beside and _differ(mine.columns[one.name], others.columns[one.name]) and (why := _skewed(one, beside[one.name]))
    ]
    return "; ".join(found) or None


def _differ(mine: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> bool:
    """Whether the features computed by two bundles differ on more than a few of the same rows."""
    import numpy as np

    return bool(np.mean(~np.isclose(mine, others, rtol=1e-6, atol=1e-9, equal_nan=True)) > FEW)


def _skewed(mine: verdict.Column, other: verdict.Column) -> str:
    """Why a feature differs from training while the other bundle's does not; empty if it does not, or if the world changed for both."""
    if mine.outcome == "broken" and other.outcome != "broken":
        return mine.why
    if mine.distance is None or other.distance is None or mine.distance < SKEWED or other.distance > mine.distance / BESIDE:
        return ""
    return f"{mine.distance:.2g} standard deviations from what the model was trained on, in the other bundle {other.distance:.2g}"


def _by_labels(
    ctx: release.Context, both: Mapping[str, Loaded], rows: pa.Table, what: drift_watch.DriftWatch, *, target: str, found: DriftDecision
) -> DriftDecision:
    """*found* with the evidence of the labels added."""
    compared = drift_compare.on_labels(both, rows, what, other=target, alpha=looks.alpha(found.look, what.rules.decide))
    if isinstance(compared, str):
        return dataclasses.replace(found, outcome="ask", why=compared)
    found = dataclasses.replace(found, compared=compared)
    told = drift_compare.comparison_sentence(compared, what, other=target)
    if compared.low is None or compared.low <= what.rules.decide.margin:
        return _not_worse(compared, what, told, expected=fitness.expected(ctx, what, what.bundle), found=found)
    told += f", above the margin {what.rules.decide.margin:g}"
    useless = fitness.by_labels(ctx, what, compared, rows, target=target)
    if useless is not None:
        return dataclasses.replace(found, outcome="retrain", why=f"{told}; but both are useless: {useless}")
    return dataclasses.replace(found, outcome="roll_back", why=told)


def _not_worse(
    compared: comparison.Comparison, what: drift_watch.DriftWatch, told: str, *, expected: float | None, found: DriftDecision
) -> DriftDecision:
    rules = what.rules.decide
    told += f": a rollback would not help by more than {rules.margin:g}"
    if expected is not None and compared.first <= expected + rules.margin:
        return dataclasses.replace(found, outcome="keep", why=f"{told}, and it is as good as on its reference ({expected:.4f})")
    return dataclasses.replace(found, outcome="retrain", why=told)


def carry_out(
    ctx: release.Context, what: drift_watch.DriftWatch, decision: DriftDecision, *, now: float, actor: str, wait_s: float = 10.0
) -> convergence.Outcome | None:
    """Roll back and move the traffic if the decision says so, then record it. None if nothing moved, or the service has moved on.

    Recorded last, so that a look whose process died midway is still due. Raises Conflict, with nothing recorded, if another host
    has to decide: it has the lease, or runs the workers whose log was read. Does not raise if a rule forbids the rollback or
    another change was faster: a person is paged instead.
    """
    vantage.check_vantage(ctx, what.service, what.bundle, now=clock.now())
    name, holder = lease.drift_lease_name(what.service), lease.holder(ctx.settings)
    with lease.given_up(ctx.ledger, name, holder=holder):
        fence = lease.acquire(ctx.ledger, name, holder=holder, now=clock.now(), ttl_s=LEASE_S)
        if fence is None:
            raise errors.Conflict(f"another process is deciding about the drift of {what.service!r}; see 'lastgood drift {what.service}'")
        return _carried_out(ctx, what, decision, fence=fence, now=now, actor=actor, wait_s=wait_s)


def _carried_out(
    ctx: release.Context,
    what: drift_watch.DriftWatch,
    decision: DriftDecision,
    *,
    fence: ledger.Fence,
    now: float,
    actor: str,
    wait_s: float,
) -> convergence.Outcome | None:
    state = ctx.ledger.state(what.service)
    outcome: convergence.Outcome | None = None
    trouble = ""
    failpoint("drift.before_rollback")
    if decision.outcome == "roll_back" and state.stable == what.bundle:
        try:
            request = _request(decision, planned=decision.planned or state, fence=fence, actor=actor)
            outcome = convergence.carry_out(ctx.with_clock(lambda: now), what.service, release.roll_back, request, wait_s=wait_s)
        except (errors.NotAllowed, errors.Conflict, errors.NothingToDo) as error:
            trouble = f"; the decision could not be carried out: {error}"
    failpoint("drift.after_rollback")
    _page(ctx, what, decision, trouble=trouble, now=now)
    ctx.ledger.evaluate(what.bundle, kind=KIND, report=plain.mended(decision.to_json()), actor=actor, now=now)
    return outcome


def _request(decision: DriftDecision, *, planned: State, fence: ledger.Fence, actor: str) -> release.Request:
    """A rollback that is requested only while the service is in the state that was compared."""
    evidence = {"drift": plain.mended(decision.to_json()), "verdicts": []}
    return release.Request(actor=actor, reason=f"drift: {decision.why}", planned=planned, automatic=True, evidence=evidence, fence=fence)


def _page(ctx: release.Context, what: drift_watch.DriftWatch, decision: DriftDecision, *, trouble: str, now: float) -> None:
    if decision.outcome == "roll_back" and not trouble:
        return  # the rollback pages by itself
    said = {"roll_back": "should be rolled back", "retrain": "should be retrained", "keep": "can stay", "ask": "needs a person's decision"}
    once.Notifier(ctx, what.service).once(
        f"drift-decision-{short(what.bundle)}-{int(decision.look.alarm)}-{decision.look.number}",
        f"{what.service}: after the drift alarm {short(what.bundle)} {said[decision.outcome]}: {decision.why}{trouble}",
        severity="critical" if trouble else "warning",
        body={"decision": plain.mended(dataclasses.replace(decision, kept=None).to_json())},
        now=now,
    )

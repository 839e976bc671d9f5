"""Everything known about one rollout, assembled from the ledger: values only, for reports and incident records.

A rollout begins with the revision that proposed it and ends with its cut-over and bake, or with its rollback and the measurement
after that. Data that can no longer be read is left out and listed in `missing`.

What does not belong here: plots (`plots`), pages (`html`), what is kept as an incident (`incident`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from lastgood import context, errors, ledger, release
from lastgood.analysis import follow
from lastgood.analysis import run as analysis_run
from lastgood.bundle import manifest
from lastgood.bundle.manifest import short
from lastgood.core import state as rollout
from lastgood.gates import base
from lastgood.layers import receipts
from lastgood.ledger import audit
from lastgood.reports import changepoint as onset
from lastgood.reports import evidence, rollouts
from lastgood.reports import latency as times
from lastgood.reports.rollouts import RolloutStatus
from lastgood.system import clock as system_clock

__all__ = ["Followed", "RolloutRecord", "RolloutStatus", "Segment", "collect", "newest"]

GAP_S = 900.0
"""Seconds before a late rollback that are still shown; the time between the bake and these is left out."""

PAGES = 500
"""Number of a service's newest pages that are searched for those of the rollout."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """An interval without changes, from `start` until `end` (Unix seconds): each bundle's traffic share in percent, and the mirror."""

    revision: int
    phase: str
    start: float
    end: float
    shares: Mapping[str, float]
    mirror_pct: float = 0.0
    held: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """How one layer followed the revision that ended the rollout (or the newest one).

    `ms` is the time from the commit until the layer agreed; None if unknown. If `at_most`, `ms` is only an upper limit.
    """

    layer: str
    status: str
    desired: int
    observed: int | None
    ms: float | None
    at_most: bool = False
    detail: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RequestCounts:
    """The requests that one bundle got while the rollout was measured.

    `answered` counts the users' requests sent to it, of which it `failed` some; `user_errors` of them ended with an error for the
    user, whichever bundle caused it (None: unknown). `mirrored` counts copies of requests, whose answers were discarded.
    """

    answered: int = 0
    failed: int = 0
    mirrored: int = 0
    user_errors: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRecord:
    """One rollout of `candidate` over `stable`; `rollout` is the revision that proposed it.

    `revisions` are its own, oldest first; `ending` is the one that ended it, None while it is under way, `verified` the one
    that closed the measurement after its rollback. `decided` are the verdicts on which the ending revision was based (the
    current ones while it is under way). `left` is the bundle that was taken back, `good` the one that has served since.
    `onset` estimates when the fault began to show, `onset_between` the earliest and latest plausible moment.
    Times are Unix seconds.
    """

    service: str
    rollout: int
    at: float
    candidate: str
    stable: str | None
    outcome: RolloutStatus
    revisions: tuple[ledger.Revision, ...]
    ending: ledger.Revision | None
    verified: ledger.Revision | None
    segments: tuple[Segment, ...]
    analyses: tuple[evidence.MeasuredAnalysis, ...]
    decided: tuple[base.Verdict, ...]
    onset: float | None
    onset_between: tuple[float, float] | None
    followed: tuple[Followed, ...]
    pages: tuple[ledger.Page, ...]
    changes: tuple[manifest.PartChange, ...]
    requests: Mapping[str, RequestCounts]
    times: Mapping[str, times.Curve]
    missing: tuple[str, ...]

    @property
    def left(self) -> str | None:
        """The bundle that was taken back and is blamed; None if none is."""
        return self.candidate if self.outcome in ("taken out", "rolled back") else None

    @property
    def good(self) -> str | None:
        """The bundle that has served since the rollout ended (while it is under way: stable)."""
        return self.revisions[-1].state.stable if self.ending is None else self.ending.state.stable

    @property
    def fired(self) -> base.Verdict | None:
        """The verdict that took the rollout back; None if no gate did."""
        failed = [verdict for verdict in self.decided if verdict.outcome == "fail"] or list(self.decided)
        return failed[0] if self.left and failed else None

    @property
    def exposure_s(self) -> float:
        """Seconds in which the candidate had a share of the traffic, by the revisions, until now or the end."""
        end = math.inf if self.ending is None or self.left is None else self.ending.at
        return sum(max(min(one.end, end) - one.start, 0.0) for one in self.segments if one.shares.get(self.candidate, 0.0) > 0)

    @property
    def began(self) -> float:
        return self.segments[0].start

    @property
    def ended(self) -> float:
        return self.segments[-1].end

    @property
    def last_analysis(self) -> evidence.MeasuredAnalysis | None:
        """The analysis on which the rollout was last judged, not counting the time after a rollback."""
        judged = [one for one in self.analyses if one.kind != "verify" and one.rows]
        return judged[-1] if judged else None


def newest(book: ledger.Ledger, service: str) -> int:
    """The newest rollout of *service*. Raises NotFound if there was none."""
    return rollouts.newest(book, service)


def collect(ctx: release.Context, service: str, *, rollout: int | None = None, clock: release.Clock = system_clock.now) -> RolloutRecord:
    """Everything about the rollout that revision *rollout* proposed (None: the newest). Raises NotFound if it proposed none.

    Read-only. Takes some seconds per 10,000 measurements; memory does not grow with them.
    """
    found = rollouts.find(ctx.ledger, service, rollouts.newest(ctx.ledger, service) if rollout is None else rollout)
    now = clock()
    until = found.over_at if found.over_at is not None else max(now, found.revisions[-1].at)
    missing: list[str] = []
    asked = _asked(ctx, found, until=until, missing=missing)
    analyses = tuple(
        evidence.replay(ctx.ledger, service, question, kind=kind, until=end)
        for question, kind, end in asked  # one after the other: each is a fold over its measurements
    )
    if not any(one.rows for one in analyses):
        missing.append("no measurements: none were made, or they have passed their retention time")
    estimate = _onset(ctx, found, asked, analyses)
    return RolloutRecord(
        service=service,
        rollout=found.number,
        at=now,
        candidate=found.candidate,
        stable=found.stable,
        outcome=found.outcome,
        revisions=found.revisions,
        ending=found.ending,
        verified=found.verified,
        segments=_segments(found, until=until),
        analyses=analyses,
        decided=_decided(ctx, found, now=until, missing=missing),
        onset=None if estimate is None else estimate.at,
        onset_between=None if estimate is None else (estimate.earliest, estimate.latest),
        followed=_followed(ctx, found, missing),
        pages=_pages(ctx, found),
        changes=_changes(ctx, found, missing),
        requests=_requests(analyses, asked, missing),
        times=_times(ctx, found, analyses, until=until, missing=missing),
        missing=tuple(missing),
    )


# --- time --------------------------------------------------------------------------------------------------


def _segments(found: rollouts.Rollout, *, until: float) -> tuple[Segment, ...]:
    """One interval per revision, until the next; a rollback long after the bake is shown with the time just before it."""
    made = []
    moments = [revision.at for revision in found.revisions[1:]]
    for revision, end in zip(found.revisions, [*moments, until], strict=True):
        state = revision.state
        shares = {state.stable: 100.0} if state.stable else {}
        if state.stable and state.candidate and state.weight_pct > 0:
            shares = {state.candidate: state.weight_pct, state.stable: 100.0 - state.weight_pct}
        phase = "verifying" if state.verifying and state.phase == "idle" else state.phase
        made.append(
            Segment(
                revision=revision.number,
                phase=phase,
                start=revision.at,
                end=max(end, revision.at),
                shares=shares,
                mirror_pct=state.mirror_pct if state.candidate else 0.0,
                held=state.hold is not None,
            )
        )
    if found.late and found.ending is not None:
        start = max(found.ending.at - GAP_S, found.revisions[0].at)
        return tuple(dataclasses.replace(one, start=max(one.start, start)) for one in made if one.end > start)
    return tuple(made)


# --- evidence ----------------------------------------------------------------------------------------------

_Asked = tuple[analysis_run.Question, evidence.AnalysisKind, float]

_MEASURED_S = 1.0
"""A rollback rests on measurements taken shortly before it: for a trigger on stable, perhaps at the end of the previous day."""


def _asked(ctx: release.Context, found: rollouts.Rollout, *, until: float, missing: list[str]) -> list[_Asked]:
    """The analyses of the rollout: the final form of the question, its phase, and when it ended."""
    asked: dict[str, _Asked] = {}
    for state, end in found.states(until):
        try:
            service = context.judged_by(ctx, state)
        except errors.LastgoodError as error:
            if f"gates: {error}" not in missing:
                missing.append(f"gates: {error}")
            continue
        for question in analysis_run.questions(state, service, proposed_at=found.revisions[0].at, now=end - _MEASURED_S):
            earlier = asked.get(question.key)
            gates = {**(earlier[0].gates if earlier else {}), **question.gates}
            asked[question.key] = dataclasses.replace(question, gates=gates), _kind(question.key), end
    return [one for one in asked.values() if _belongs(found, one[0], one[1])]


def _belongs(found: rollouts.Rollout, question: analysis_run.Question, kind: evidence.AnalysisKind) -> bool:
    """Whether an analysis from that time is about this rollout: not the watch on stable, nor the time after an earlier rollback."""
    if kind == "verify":
        return found.ending is not None and question.began >= found.ending.at
    return kind != "watch" or found.late


def _kind(key: str) -> evidence.AnalysisKind:
    if key.startswith("verify/"):
        return "verify"
    phase = key.rpartition("/")[2]
    return next(kind for kind in ("shadow", "canary", "bake", "watch") if phase.startswith(kind))


def _decided(ctx: release.Context, found: rollouts.Rollout, *, now: float, missing: list[str]) -> tuple[base.Verdict, ...]:
    """The verdicts in the evidence of the ending revision; the current verdicts while the rollout is under way."""
    if found.ending is None:
        return _standing(ctx, found.revisions[-1].state, now=now)
    verdicts = follow.verdicts_of(found.ending)
    unknown = len(found.ending.evidence.get("verdicts", ())) - len(verdicts)
    if unknown:
        missing.append(f"{unknown} verdicts of revision {found.ending.number} have a form that this release does not know")
    return verdicts


def _standing(ctx: release.Context, state: rollout.State, *, now: float) -> tuple[base.Verdict, ...]:
    try:
        return tuple(said.verdict for said in follow.standing(ctx, state, now=now).values())
    except errors.LastgoodError:
        return ()  # `missing` already has the reason, from the analyses


def _onset(
    ctx: release.Context, found: rollouts.Rollout, asked: list[_Asked], analyses: tuple[evidence.MeasuredAnalysis, ...]
) -> onset.Estimate | None:
    """Estimate of when the fault behind the gate that took the rollout back began to show."""
    failed = {verdict.gate for verdict in map(base.verdict, found.taken_back_by) if verdict and verdict.outcome == "fail"}
    moments = [
        onset.estimate(ctx.ledger, found.service, question, trail=analysis.trails[gate])
        for (question, kind, _), analysis in zip(asked, analyses, strict=True)
        for gate in failed & set(analysis.trails)
        if kind != "verify" and analysis.rows and analysis.trails[gate].verdict.outcome == "fail"
    ]
    return min((moment for moment in moments if moment is not None), key=lambda moment: moment.at, default=None)


def _requests(analyses: tuple[evidence.MeasuredAnalysis, ...], asked: list[_Asked], missing: list[str]) -> dict[str, RequestCounts]:
    """Each bundle's requests, as the failed-requests gate counted them in every analysis; copies are counted separately."""
    sums: dict[str, RequestCounts] = {}
    for (question, _, _), analysis in zip(asked, analyses, strict=True):
        trail = next((trail for trail in analysis.trails.values() if trail.verdict.metric == "error_rate"), None)
        if trail is None:
            continue
        if question.copied and trail.watched.n and trail.watched.user_errors is None:
            missing.append("how many of the candidate's answers in the canary went to users: an older release counted copies among them")
        for digest, tally in ((analysis.watched, trail.watched), (analysis.beside, trail.beside)):
            if digest is None or tally is None:
                continue
            copied = analysis.kind == "shadow" and digest == analysis.watched
            old = sums.get(digest, RequestCounts())
            sums[digest] = RequestCounts(
                answered=old.answered + (0 if copied else tally.n),
                failed=old.failed + (0 if copied else tally.bad),
                user_errors=old.user_errors if copied or tally.user_errors is None else (old.user_errors or 0) + tally.user_errors,
                mirrored=old.mirrored + (tally.n if copied else tally.copies),
            )
    return sums


def _times(
    ctx: release.Context, found: rollouts.Rollout, analyses: tuple[evidence.MeasuredAnalysis, ...], *, until: float, missing: list[str]
) -> dict[str, times.Curve]:
    """How long answers took: from the proxy's counts for a latency gate, else from the workers' log."""
    for analysis in reversed([one for one in analyses if one.kind != "verify"]):
        if set(analysis.times) >= {analysis.watched, *filter(None, (analysis.beside,))}:
            return {digest: times.of_buckets(counts) for digest, counts in analysis.times.items()}
    end = until if found.ending is None else found.ending.at
    wanted = tuple(filter(None, (found.candidate, found.stable)))
    try:
        return times.logged(ctx.settings.inference(found.service), wanted, since=found.revisions[0].at, until=end)
    except (ImportError, OSError, errors.LastgoodError) as error:
        missing.append(f"times of answers: {error}")
        return {}


# --- around it ---------------------------------------------------------------------------------------------


def _followed(ctx: release.Context, found: rollouts.Rollout, missing: list[str]) -> tuple[Followed, ...]:
    """The layers' answers to the revision that ended the rollout, from the audit trail and their newest receipts."""
    revision = found.ending or found.revisions[-1]
    answers: dict[str, Followed] = {}
    for name, told in receipts.read(ctx.settings.run(found.service) / "layers").items():
        if told.desired_revision >= revision.number:
            answers[name] = _told(told, revision)
    try:
        note = _receipt_note(ctx.ledger, revision)
    except errors.LastgoodError as error:
        missing.append(f"receipts: {error}")
        note = None
    for name, status in (note or {}).get("layers", {}).items():
        ms = note["traffic_ms"] if note and name == "traffic" else None
        kept = answers.get(name)
        if ms is not None or kept is None:
            answers[name] = Followed(
                layer=name, status=str(status), desired=revision.number, observed=kept.observed if kept else None, ms=ms
            )
    return tuple(answers.values())


def _told(told: receipts.Receipt, revision: ledger.Revision) -> Followed:
    """A receipt file is rewritten at each check, so it only shows that the layer had followed by then."""
    agreed = told.covers(revision.number)
    return Followed(
        layer=told.layer,
        status=told.status,
        desired=revision.number,
        observed=told.observed_revision,
        ms=max(told.at - revision.at, 0.0) * 1000 if agreed and told.desired_revision == revision.number else None,
        at_most=True,
        detail=told.detail,
    )


def _receipt_note(book: ledger.Ledger, revision: ledger.Revision) -> Mapping[str, Any] | None:
    """The note on how the layers followed *revision*, preferably the committer's, as others only came by later; None if there is none."""
    entries = [
        entry
        for entry in _note_entries(book, revision.service, "receipt", since=revision.at)
        if _note(entry)["revision"] == revision.number
    ]
    entries.sort(key=lambda entry: entry["actor"] != revision.actor)
    return _note(entries[0]) if entries else None


def notes(book: ledger.Ledger, service: str, kind: str, *, since: float) -> list[dict[str, Any]]:
    """The notes of one *kind* in the audit trail of *service* since that time (Unix seconds), oldest first."""
    return [_note(entry) for entry in _note_entries(book, service, kind, since=since)]


def _note_entries(book: ledger.Ledger, service: str, kind: str, *, since: float) -> Iterator[Mapping[str, Any]]:
    entries = audit.export(book, service, since=since)
    return (entry for entry in entries if entry["kind"] == "note" and entry["subject"] == kind)


def _note(entry: Mapping[str, Any]) -> dict[str, Any]:
    return dict(entry["body"]["note"])


def _pages(ctx: release.Context, found: rollouts.Rollout) -> tuple[ledger.Page, ...]:
    """The pages sent for the revisions of the rollout, oldest first."""
    own = {revision.number for revision in found.revisions}
    pages = (page for page in ctx.ledger.pages(found.service, limit=PAGES) if page.revision in own)
    return tuple(sorted(pages, key=lambda page: (page.at, page.revision, page.key)))


def _changes(ctx: release.Context, found: rollouts.Rollout, missing: list[str]) -> tuple[manifest.PartChange, ...]:
    try:
        old = ctx.ledger.bundle(found.stable) if found.stable else None
        return tuple(manifest.diff(old, ctx.ledger.bundle(found.candidate)))
    except errors.LastgoodError as error:
        missing.append(f"parts of {short(found.candidate)}: {error}")
        return ()

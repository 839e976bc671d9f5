"""The gates' verdicts for read-only observers: from the measurements in the ledger, and from what was decided.

The command line, the report and Dagster all use this module, so that they agree. The controller measures and decides; nothing here
does. A gate that ended a release shows in the revision that it led to: by then there is no candidate left whose
measurements could be judged.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lastgood.analysis import run as analysis_run
from lastgood.gates import base

if TYPE_CHECKING:
    from lastgood.context import Context
    from lastgood.core.state import State
    from lastgood.ledger import Ledger, Revision

BATCH = 20_000
"""The most measurements of one analysis that one look reads, about 10 s of work on a slow core; a tick may take 60 s."""

HISTORY = 50
"""The most revisions that are searched for verdicts."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """The verdict of a gate on `bundle`."""

    verdict: base.Verdict
    bundle: str

    @property
    def gate(self) -> str:
        """The gate's name."""
        return self.verdict.gate

    @property
    def mark(self) -> str:
        """Equal for equal verdicts on the same bundle, whatever the figures."""
        return f"{self.bundle[7:19]} {self.verdict.outcome} {self.verdict.cause}"


Answers = Mapping[str, Said]
"""By the gate's name."""


def decided(revisions: Iterable[Revision], *, ledger: Ledger) -> Answers:
    """The verdicts that led to *revisions* (given newest first); for each gate the newest one."""
    found: dict[str, Said] = {}
    for revision in sorted(revisions, key=lambda one: one.number):
        verdicts = verdicts_of(revision)
        if verdicts:
            judged = ledger.revision(revision.service, revision.number - 1).state
            bundle = judged.stable if revision.verb == "verified" else judged.candidate or judged.stable
            found |= {verdict.gate: Said(verdict=verdict, bundle=bundle or "") for verdict in verdicts}
    return found


def verdicts_of(revision: Revision) -> tuple[base.Verdict, ...]:
    """The verdicts that *revision* is based on, without those in a form that this release does not know."""
    return tuple(filter(None, map(base.verdict, revision.evidence.get("verdicts", ()))))


def newest(ctx: Context, service: str, *, now: float) -> Answers:
    """The newest verdict of each gate: from the measurements in progress, or else from a decision. Reads all measurements."""
    before = decided(ctx.ledger.history(service, limit=HISTORY), ledger=ctx.ledger)
    return {**before, **standing(ctx, ctx.ledger.state(service), now=now)}


def standing(ctx: Context, state: State, *, now: float) -> Answers:
    """The verdict of each gate in *state* at Unix time *now*, from all measurements in the ledger; see `Evidence.look`."""
    return Evidence(batch=None).look(ctx, state, now=now).answers


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FollowedVerdicts:
    """The verdicts at one moment. `measured` is the newest measurement of each analysis that is included.

    `behind` means that there were more measurements than one look reads, so that the verdicts are not current.
    """

    answers: Answers
    measured: Mapping[str, int]
    behind: bool


class Evidence:
    """The measurements read so far, kept between the looks of one process; the ledger has all of them.

    Reading a day of measurements takes about 40 s on a slow core, and a sensor looks every five seconds.
    """

    def __init__(self, *, batch: int | None = BATCH) -> None:
        self._batch = batch
        self._kept: dict[tuple[str, ...], analysis_run.Analysis] = {}

    def look(self, ctx: Context, state: State, *, now: float) -> FollowedVerdicts:
        """The verdicts in *state* at Unix time *now*. A verdict on the candidate takes precedence over one on the serving bundle.

        Raises LastgoodError if the gates or their measurements cannot be read.
        """
        asked = {self._name(ctx, state, question): question for question in analysis_run.open_questions(ctx, state, now=now)}
        mine = (ctx.settings.ledger_url, state.service)
        self._kept = {name: kept for name, kept in self._kept.items() if name in asked or name[:2] != mine}
        answers: dict[str, Said] = {}
        measured: dict[str, int] = {}
        behind = False
        for name, question in asked.items():
            analysis = self._analysis(ctx, state.service, name, question)
            behind |= analysis.catch_up(most=self._batch)
            measured[question.key] = analysis.seq
            for gate, verdict in analysis.verdicts(now).items():
                answers.setdefault(gate, Said(verdict=verdict, bundle=question.watched))
        return FollowedVerdicts(answers=answers, measured=measured, behind=behind)

    def _name(self, ctx: Context, state: State, question: analysis_run.Question) -> tuple[str, ...]:
        """A name that differs for another ledger, another release, and a phase with other gates."""
        proposed = ctx.ledger.revision(state.service, state.rollout or state.revision).hash
        return (ctx.settings.ledger_url, state.service, question.key, proposed, *sorted(question.gates))

    def _analysis(self, ctx: Context, service: str, name: tuple[str, ...], question: analysis_run.Question) -> analysis_run.Analysis:
        """The cached analysis, which outlives a connection, or a new one."""
        if name not in self._kept:
            self._kept[name] = analysis_run.Analysis(question, book=ctx.ledger, service=service)
        self._kept[name].book = ctx.ledger
        return self._kept[name]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measurement that counts: its number, each gate's observations, where each source continues, the newest observation's time."""

    seq: int
    observations: tuple[tuple[str, base.Observation], ...]
    cursors: Mapping[str, Any]
    at: float | None


def replay(analysis: analysis_run.Analysis, *, service: str, until: float) -> Iterator[Measurement]:
    """Feed the observations up to that time (Unix seconds) into the empty *analysis*; yields each measurement once it is included.

    So the verdicts at each moment can be read in between.
    """
    for row in analysis.book.recorded(service, analysis.question.key):
        seen = tuple((gate, base.observation(one)) for gate, found in row["body"]["observations"].items() for one in found)
        newest_at = max((one.at for _, one in seen if math.isfinite(one.at)), default=None)
        late = newest_at is not None and newest_at > until
        if not late and analysis.take(row["seq"], row["body"], at=row["at"]):
            yield Measurement(seq=row["seq"], observations=seen, cursors=row["body"]["cursors"], at=newest_at)

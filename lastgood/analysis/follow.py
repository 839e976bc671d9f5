"""What the gates of a service say, for whoever only looks on: by the measurements in the ledger, and by what was decided.

The controller measures and decides; nothing here does. A gate that takes a release back is seen in the revision that it
led to: by then there is no candidate any more about which the measurements could be asked.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from lastgood.analysis.run import Analysis, Question
    from lastgood.context import Context
    from lastgood.core.transitions import State
    from lastgood.gates.base import Verdict
    from lastgood.ledger import Ledger, Revision

BATCH = 20_000
"""Most measurements of one analysis that one look takes in, some 10 s of work on a slow core; a tick may take 60 s."""

HISTORY = 50
"""Most revisions that are searched for verdicts."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a gate says of `bundle`."""

    verdict: "Verdict"
    bundle: str

    @property
    def gate(self) -> str:
        """The gate's name."""
        return self.verdict.gate

    @property
    def mark(self) -> str:
        """The same for the same answer about the same bundle, whatever the figures."""
        return f"{self.bundle[7:19]} {self.verdict.outcome} {self.verdict.cause}"


Answers = Mapping[str, Said]
"""By the gate's name."""


def decided(revisions: "Iterable[Revision]", *, ledger: "Ledger") -> Answers:
    """The verdicts that led to *revisions* (given newest first); of each gate the newest one."""
    from lastgood.gates import base

    found: dict[str, Said] = {}
    for revision in sorted(revisions, key=lambda one: one.number):
        told = revision.evidence.get("verdicts", ())
        if told:
            judged = ledger.revision(revision.service, revision.number - 1).state
            bundle = judged.stable if revision.verb == "verified" else judged.candidate or judged.stable
            found |= {verdict["gate"]: Said(verdict=base.Verdict(**verdict), bundle=bundle or "") for verdict in told}
    return found


def newest(ctx: "Context", service: str, *, now: float) -> Answers:
    """What each gate said last: by the measurements under way, else when something was decided. Reads all of them."""
    before = decided(ctx.ledger.history(service, limit=HISTORY), ledger=ctx.ledger)
    return {**before, **Evidence(batch=None).look(ctx, ctx.ledger.state(service), now=now).answers}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the gates say at one moment. `measured` is the newest measurement of each analysis that went into it.

    With `behind`, there are more than one look takes in, and the answers are those of a while ago.
    """

    answers: Answers
    measured: Mapping[str, int]
    behind: bool


class Evidence:
    """The measurements read so far, kept between the looks of one process; the ledger has all of it.

    A day of measurements takes some 40 s to take in on a slow core, and a sensor looks every five seconds.
    """

    def __init__(self, *, batch: int | None = BATCH) -> None:
        self._batch = batch
        self._kept: dict[tuple[str, ...], tuple[Analysis, _Book]] = {}

    def look(self, ctx: "Context", state: "State", *, now: float) -> Look:
        """What the gates say in *state* at Unix time *now*. A candidate's own verdict goes before one on what serves."""
        from lastgood.analysis import run as judge

        asked = {self._name(ctx, state, question): question for question in judge.open_questions(ctx, state, now=now)}
        mine = (ctx.settings.ledger_url, state.service)
        self._kept = {name: kept for name, kept in self._kept.items() if name in asked or name[:2] != mine}
        answers: dict[str, Said] = {}
        books = []
        for name, question in reversed(asked.items()):
            analysis, book = self._caught_up(ctx, state.service, name, question)
            books.append(book)
            answers |= {gate: Said(verdict=said, bundle=question.watched) for gate, said in analysis.verdicts(now).items()}
        return Look(answers=answers, measured={book.key: book.seq for book in books}, behind=any(book.behind for book in books))

    def _name(self, ctx: "Context", state: "State", question: "Question") -> tuple[str, ...]:
        """Another one for another ledger, another release, and for a phase in which other gates are asked."""
        told = ctx.ledger.revision(state.service, state.rollout or state.revision).hash
        return (ctx.settings.ledger_url, state.service, question.key, told, *sorted(question.gates))

    def _caught_up(self, ctx: "Context", service: str, name: tuple[str, ...], question: "Question") -> "tuple[Analysis, _Book]":
        from lastgood.analysis import run as judge

        if name in self._kept:
            analysis, book = self._kept[name]
            book.ledger = ctx.ledger
            analysis.catch_up()
        else:
            book = _Book(ctx.ledger, question.key, batch=self._batch)
            self._kept[name] = judge.Analysis(question, book=cast("Ledger", book), service=service), book
        return self._kept[name]


class _Book:
    """The ledger as an analysis that outlives a connection sees it; a batch of its measurements at a time."""

    def __init__(self, ledger: "Ledger", key: str, *, batch: int | None) -> None:
        self.ledger = ledger
        self.key = key
        self.seq = 0
        self.behind = False
        self._batch = batch

    def revision(self, service: str, number: int) -> "Revision":
        """As `Ledger.revision`."""
        return self.ledger.revision(service, number)

    def recorded(self, service: str, analysis: str, *, after: int = 0) -> Iterator[dict[str, Any]]:
        """As `Ledger.recorded`; what other analyses left behind is read to its end."""
        rows = self.ledger.recorded(service, analysis, after=after)
        if analysis != self.key:
            yield from rows
            return
        for row in itertools.islice(rows, self._batch):
            self.seq = row["seq"]
            yield row
        self.behind = next(rows, None) is not None

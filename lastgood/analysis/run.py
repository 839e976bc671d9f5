"""Measuring for one service: which gates are evaluated, on which bundles, and their verdicts so far.

An *analysis* is one question about one pair of bundles: the mirrored answers, the canary, the bake, the recovery after a
rollback, or a trigger on stable. Its measurements are written to the ledger as they are made, so that a controller that was
killed, or another one, continues with the same evidence and reaches the same verdict. A new candidate is a new analysis.

What does not belong here: statistics (`gates`), where numbers come from (`sources`), what a verdict leads to (`policy`).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, Self

from lastgood import context, ledger
from lastgood.core.state import State
from lastgood.gates import base, eprocess
from lastgood.gates import gate as gate_run
from lastgood.service import gates as service_gates
from lastgood.service import schema
from lastgood.sources import base as sources

log = logging.getLogger("lastgood.judge")

WATCH_S = 86_400.0
"""On watch, the evidence starts anew each day (UTC): a trigger blames a healthy service with its share of `alpha` per day, and
a process that takes over has at most a day to read. Slow changes over weeks are a matter of drift, not of gates. Where a gate needs
long for one verdict, the period is as many days as WATCH_TIMES that takes."""
WATCH_TIMES = 24

ANALYSES = ("shadow", "canary", "bake")
"""A release has at most one analysis of each kind, so each gets an equal share of its alpha."""

RECOVERY_ALPHA = 0.01
"""Probability that the measurement after a rollback calls a healthy service not recovered."""


class Reader(Protocol):
    """The source of every gate's measurements; see `lastgood.sources.catalog`."""

    def read(self, name: str, asked: sources.MeasurementRequest, *, now: float, cursor: sources.Cursor | None) -> sources.SourceReading: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What one analysis is about.

    `key` identifies it among the measurements of the service. `watched` is judged, against `beside` or alone, by `gates`, which share
    `alpha` with those of `sharing`: a gate that applies only in some steps of the canary costs the others the same in each. `share` is
    the watched arm's share of the live traffic of both arms, `weight` its share of all live traffic; `control` means that `beside` is the
    control arm of that bundle. `step` is the index of the canary step, which began at `phase_since`; `began` is when the evidence begins
    (Unix seconds), `reference` the rollout whose stable arm is the reference for good when there is no arm to compare with.
    """

    key: str
    mode: base.Mode
    watched: str
    beside: str | None
    gates: Mapping[str, service_gates.AnyGate]
    alpha: float
    began: float
    sharing: Mapping[str, service_gates.AnyGate] = dataclasses.field(default_factory=dict)
    mirrored: bool = False
    copied: bool = False
    share: float | None = None
    weight: float | None = None
    control: bool = False
    step: int = 0
    phase_since: float = 0.0
    reference: int | None = None
    flush_s: float = 1.0
    """How often the workers flush their logs, in seconds."""


def questions(state: State, service: schema.Service, *, proposed_at: float, now: float) -> list[Question]:
    """The questions to measure in *state* at Unix time *now*; *service* is the configuration of the bundle under judgement.

    *proposed_at* is when the rollout in progress was proposed (Unix seconds).
    """
    asked = [_on_the_way(state, service, proposed_at=proposed_at), _serving(state, service, now=now), _afterwards(state, service)]
    flush_s = service.serving.log_flush_s
    return [dataclasses.replace(question, flush_s=flush_s) for question in asked if question is not None and question.gates]


def open_questions(ctx: context.Context, state: State, *, now: float) -> list[Question]:
    """As `questions`, with the configuration and the time of the proposal looked up; empty while workers are starting.

    Raises NotFound or Unavailable if they cannot be read.
    """
    if state.revision == 0 or (state.phase == "preparing" and state.verifying is None):
        return []
    proposed_at = ctx.ledger.revision(state.service, state.rollout).at if state.rollout else 0.0
    return questions(state, context.judged_by(ctx, state), proposed_at=proposed_at, now=now)


def _on_the_way(state: State, service: schema.Service, *, proposed_at: float) -> Question | None:
    if state.candidate is None or state.stable is None or state.phase not in ("shadow", "canary", "approval"):
        return None
    live = state.weight_pct > 0
    phase = "canary" if live else "shadow"
    gates = {
        name: gate
        for name, gate in service.gates.items()
        if phase in gate.during
        and not (isinstance(gate, service_gates.SampleRatio | service_gates.Ejections) and not live)
        and not (isinstance(gate, service_gates.Score) and gate.of_users and not live)
    }
    unmirrored = {name: gate for name, gate in gates.items() if not isinstance(gate, service_gates.Agreement)}
    mirrored_once = any(planned.kind == phase and planned.mirror_pct for planned in state.chain)
    return Question(
        key=f"{state.rollout}/{phase}",
        mode="compare",
        watched=state.candidate,
        beside=state.stable,
        gates=gates if state.mirror_pct else unmirrored,
        sharing=gates if mirrored_once else {},
        alpha=_share_of_alpha(service),
        began=proposed_at,
        mirrored=not live,
        copied=live and state.mirror_pct > 0,
        # Of the requests that either arm answers: with a control arm, the rest of stable's requests is excluded.
        share=state.weight_pct / (state.weight_pct + (state.control_pct or 100 - state.weight_pct)) if live else None,
        weight=state.weight_pct / 100 if live else None,
        control=live and state.control_pct > 0,
        step=state.position or 0,
        phase_since=state.phase_since or 0.0,
    )


def _share_of_alpha(service: schema.Service) -> float:
    """The alpha that one analysis of a release may spend, whatever its phases: they can be named and skipped while it is in progress.

    On watch, the alpha that a day may spend.
    """
    return service.release.alpha / len(ANALYSES)


def _serving(state: State, service: schema.Service, *, now: float) -> Question | None:
    if state.stable is None or state.verifying is not None or state.phase not in ("baking", "idle"):
        return None
    baking = state.phase == "baking"
    watch = ("bake", "always") if baking else ("always",)
    gates = _alone({name: gate for name, gate in service.gates.items() if gate.watch in watch})
    stretch_s = _watch_s(gates)
    stretch = int(now // stretch_s)
    return Question(
        key=f"{state.rollout}/bake" if baking else f"{state.revision}/watch-{stretch}",
        mode="alone",
        watched=state.stable,
        beside=None,
        gates=gates,
        phase_since=state.phase_since or 0.0,
        alpha=_share_of_alpha(service),
        began=(state.phase_since or 0.0) if baking else stretch * stretch_s,
        reference=state.rollout,
    )


def _watch_s(gates: Mapping[str, service_gates.AnyGate]) -> float:
    """The length of one watch period: whole days, long enough for each gate to reach many verdicts."""
    longest = max(
        (max(getattr(gate, "persistence", 0) * gate.window_s, getattr(gate, "block_s", 0.0), gate.patience_s) for gate in gates.values()),
        default=0.0,
    )
    return WATCH_S * max(1, math.ceil(WATCH_TIMES * longest / WATCH_S))


def _afterwards(state: State, service: schema.Service) -> Question | None:
    if state.stable is None or state.verifying is None:
        return None
    wanted = service.release.recovery.min_samples
    gates = {
        name: gate.model_copy(update={"min_samples": min(gate.min_samples, wanted)} if gate.min_samples > 1 else {})
        for name, gate in _alone(service.gates).items()
    }
    return Question(
        key=f"verify/{state.verifying.since:.3f}",
        mode="alone",
        watched=state.stable,
        beside=None,
        gates=gates,
        alpha=RECOVERY_ALPHA,
        began=state.verifying.since,
        reference=state.verifying.rollout,
    )


def _alone(gates: Mapping[str, service_gates.AnyGate]) -> dict[str, service_gates.AnyGate]:
    """The gates that can judge a bundle without an arm to compare with."""
    needs_two = service_gates.Agreement | service_gates.SampleRatio | service_gates.Ejections
    return {name: gate for name, gate in gates.items() if not isinstance(gate, needs_two)}


def since(question: Question, *, book: ledger.Ledger, service: str) -> Question:
    """*question*; on watch, beginning no earlier than the revision in its key, when the bundle began to serve alone."""
    number, _, kind = question.key.partition("/")
    if not kind.startswith("watch"):
        return question
    return dataclasses.replace(question, began=max(question.began, book.revision(service, int(number)).at))


class Analysis:
    """The evidence on one question so far: a fold of its measurements, initially empty. `seq` is the number of the newest one included.

    `book` is the ledger that they come from; another connection may replace it.
    """

    def __init__(self, question: Question, *, book: ledger.Ledger, service: str) -> None:
        self.question = question = since(question, book=book, service=service)
        self.book = book
        self.seq = 0
        self._service = service
        self._cursors: dict[str, sources.Cursor] = {}
        references = _references(book, service, question)
        alphas = gate_run.budget({**question.sharing, **question.gates}, question.alpha)
        self._tracks = {
            name: gate_run.GateState(
                name, gate, mode=question.mode, alpha=alphas.get(name, question.alpha), since=question.began, reference=references.get(name)
            )
            for name, gate in question.gates.items()
        }

    @classmethod
    def resumed(cls, question: Question, *, book: ledger.Ledger, service: str) -> Self:
        """The evidence on *question* from everything in the ledger so far."""
        analysis = cls(question, book=book, service=service)
        analysis.catch_up()
        return analysis

    def catch_up(self, *, most: int | None = None) -> bool:
        """Read measurements from the ledger that are not included yet, *most* of them at a time; returns whether there are more."""
        rows = self.book.recorded(self._service, self.question.key, after=self.seq)
        for row in itertools.islice(rows, most):
            self.take(row["seq"], row["body"], at=row["at"])
        return next(rows, None) is not None

    def go_on(self, question: Question) -> None:
        """Continue the same analysis in the next step of a canary."""
        self.question = dataclasses.replace(question, began=self.question.began)

    def measure(self, now: float, read: Reader) -> None:
        """Query every source once through *read*. An observation counts once it is in the ledger, so a crash loses it for both.

        Two controllers may measure at once, since a lease is not a lock. Both saw the same requests: every reader of the ledger counts
        only the measurement that came first (`_follows`).
        """
        body: dict[str, Any] = {"after": self.seq, "step": self.question.step, "observations": {}, "cursors": {}}
        for name, gate in self.question.gates.items():
            if isinstance(gate, service_gates.LatencyP99) and now < self.question.phase_since + gate.settle_s:
                if name in self._cursors:
                    body["cursors"][name] = None  # anything until then is skipped: the next query starts from there
                continue
            answer = read.read(name, self._asked(gate), now=now, cursor=self._cursors.get(name))
            if answer.observations:
                body["observations"][name] = [_kept(seen, now) for seen in answer.observations]
            if answer.observations or name not in self._cursors:
                body["cursors"][name] = dict(answer.cursor)
        if body["observations"] or body["cursors"]:
            seq = self.book.record(self._service, self.question.key, body, now=now)
            if seq == self.seq + 1:
                self.take(seq, body, at=now)
            else:
                self.catch_up()

    def verdicts(self, now: float) -> dict[str, base.Verdict]:
        """The verdict of each gate now."""
        return {name: one.verdict(now) for name, one in self._tracks.items()}

    def _asked(self, gate: service_gates.AnyGate) -> sources.MeasurementRequest:
        question = self.question
        return sources.MeasurementRequest(
            gate=gate,
            watched=question.watched,
            beside=question.beside,
            mirrored=question.mirrored,
            copied=question.copied,
            share=question.share,
            weight=question.weight,
            control=question.control,
            since=question.began,
            flush_s=question.flush_s,
        )

    def sums(self, gate: str) -> tuple[base.Tally, base.Tally]:
        """The totals of the two arms that *gate* has observed."""
        return self._tracks[gate].watched, self._tracks[gate].beside

    def take(self, seq: int, body: Mapping[str, Any], *, at: float) -> bool:
        """Include measurement *seq*, made *at* (Unix seconds); returns whether it counts: a second controller's duplicate does not."""
        if not self.seq:
            for one in self._tracks.values():
                one.looked(at)
        self.seq = seq
        if not _follows(seq, body):
            return False
        for name, seen in body["observations"].items():
            if name in self._tracks:
                for one in seen:
                    self._tracks[name].take(base.observation(one), step=body["step"])
        for name, cursor in body["cursors"].items():
            if cursor is None:
                self._cursors.pop(name, None)
            else:
                self._cursors[name] = cursor
        return True


def _follows(seq: int, body: Mapping[str, Any]) -> bool:
    """Whether measurement *seq* starts where the previous one ended; otherwise that one has already counted its requests."""
    return bool(body.get("after", seq - 1) == seq - 1)


def _kept(seen: base.Observation, now: float) -> dict[str, Any]:
    """*seen* in a form the ledger can store: JSON has no NaN, and a source that returns one is as uninformative as one that is down."""
    value = seen.to_json()
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return base.Observation(at=now, down=True, detail=f"non-finite value: {seen.watched!r} compared with {seen.beside!r}").to_json()
    return value


def _references(book: ledger.Ledger, service: str, question: Question) -> dict[str, base.Tally]:
    """The stable arm's earlier figures, gate by gate, for use when there is no arm to compare with.

    Without a record of them, an error rate is compared with no failures, so that the gate's margin is the limit.
    """
    if question.mode == "compare":
        return {}
    found: dict[str, base.Tally] = {}
    for phase in ("canary", "shadow"):
        if question.reference is not None and not found:
            rows = book.recorded(service, f"{question.reference}/{phase}")
            found = _totals(row["body"] for row in rows if _follows(row["seq"], row["body"]))
    nothing = {name: base.Tally(n=1) for name, gate in question.gates.items() if isinstance(gate, service_gates.ErrorRate)}
    return {**nothing, **found}


def _totals(bodies: Iterable[Mapping[str, Any]]) -> dict[str, base.Tally]:
    sums: dict[str, base.Tally] = {}
    for body in bodies:
        for name, seen in body["observations"].items():
            for one in map(base.observation, seen):
                if one.beside is not None and not one.down:
                    sums[name] = eprocess.joined(sums.get(name, base.EMPTY), one.beside)
    return {name: tally for name, tally in sums.items() if tally.n}


class RunningAnalyses:
    """All analyses of one service in progress."""

    def __init__(self, book: ledger.Ledger, service: str, read: Reader) -> None:
        self._book = book
        self._service = service
        self._read = read
        self._analyses: dict[str, Analysis] = {}

    def measure(self, asked: Iterable[Question], *, now: float) -> None:
        """Start or continue the questions *asked*, one measurement each; drop the rest. After a change of gates, rebuild from the ledger."""
        wanted = {question.key: question for question in asked}
        self._analyses = {
            key: one for key, one in self._analyses.items() if key in wanted and set(one.question.gates) == set(wanted[key].gates)
        }
        for key, question in wanted.items():
            if key not in self._analyses:
                self._analyses[key] = Analysis.resumed(question, book=self._book, service=self._service)
            self._analyses[key].go_on(question)
            self._analyses[key].measure(now, self._read)

    def verdicts(self, now: float) -> tuple[dict[str, base.Verdict], dict[str, base.Verdict]]:
        """The gates' verdicts on the release (or on stable, on watch), and on the recovery after a rollback."""
        release: dict[str, base.Verdict] = {}
        afterwards: dict[str, base.Verdict] = {}
        for key, analysis in self._analyses.items():
            (afterwards if key.startswith("verify/") else release).update(analysis.verdicts(now))
        return release, afterwards

    def forget(self) -> None:
        """Drop everything in memory: another controller is measuring now, and its evidence is in the ledger."""
        self._analyses = {}

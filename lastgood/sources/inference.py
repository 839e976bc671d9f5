"""The quality of answers: scores from predictions joined with feedback, and how often two bundles agree.

    gate        compared                                                     one observation
    score       watched and beside, on rows whose outcome is known           a block of `block_s`, by the time of the answer
    agreement   answers to copies with the answers that users got            what was answered by both since the last look

If the watched bundle answers copies, in shadow or in a canary that is also mirrored, its answers to them are *paired* with
those that users got: only rows answered by both count, which removes most of the noise. Otherwise each arm counts the
users that it answered. A request by debug token does not count. When a block is complete: see `label_join`.

Nothing before the first call counts. What was read is kept in memory only; after a restart the blocks that were not handed out
yet are read again.

What does not belong here: files and columns (`serving.inference_log`, `serving.segments`), when a mean is too bad (`gates`).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lastgood import errors
from lastgood.gates.base import Observation, Tally
from lastgood.service import gates
from lastgood.serving import feedback, inference_log, losses, segments
from lastgood.serving import log_tail as tails
from lastgood.settings import Settings
from lastgood.sources import base
from lastgood.sources.label_join import CAPACITY, Arm, Key, OpenBlocks, ScoredRow, Timed

if TYPE_CHECKING:
    import pyarrow as pa

AGREEMENT_BLOCK_S = 1.0
"""Agreement needs no label, so a second is complete as soon as it is on disk."""
IDLE_S = 600.0
"""Seconds without a request after which data is dropped from memory."""
SHARED_ROWS = 5_000
"""Segments of up to this many rows are read once for all gates that ask at the same moment."""
SAME = 1e-9
"""Slack of the comparison with a tolerance: 0.8 and 0.7 differ by 0.1 for people, not for floats."""
CLIP = 1e-15
"""A probability of 0 or 1 counts as this far from it in the logarithm, as in scikit-learn."""

_ANSWERS = ("request_id", "row", "bundle", "arm", "shadow", "probability", "output", "caller_id", "latency_us")
_FEEDBACK = ("request_id", "row", "label", "outcome")

SCORES: dict[str, Callable[[float, float], float]] = {
    "brier": lambda p, y: (p - y) ** 2,
    "squared_error": lambda p, y: (p - y) ** 2,
    "absolute_error": lambda p, y: abs(p - y),
    "accuracy": lambda p, y: float((p >= 0.5) == (y >= 0.5)),
    "log_loss": lambda p, y: -(y * math.log(max(p, CLIP)) + (1 - y) * math.log(max(1 - p, CLIP))),
}
"""Score of a prediction *p* against the label *y*."""

Measured = gates.Score | gates.Agreement

_UNREADABLE = (ValueError, TypeError, AttributeError, OverflowError, RecursionError)
"""What a row raises that is not as rows are: for text that is not JSON, an answer that is not an object, a missing id."""


@dataclasses.dataclass(slots=True, kw_only=True)
class _Open:
    """The in-memory state of one gate."""

    blocks: OpenBlocks
    answers: tails.Tail
    feedback: tails.Tail | None
    handed_out: int = -1
    """The last block of the latest cursor; a lower one means that a caller starts over."""
    asked_at: float = 0.0


class InferenceSource(base.Source):
    """The logs of one service. Each call reads what was written since the last; *capacity* is in rows, per gate."""

    def __init__(self, settings: Settings, service: str, *, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._folder = settings.inference(service)
        self._open: dict[Any, _Open] = {}
        self._shared: tuple[float, dict[Path, pa.Table]] = (-math.inf, {})

    def read(self, asked: base.MeasurementRequest, *, now: float, cursor: base.Cursor | None) -> base.SourceReading:
        """The blocks closed since *cursor*; a log that cannot be read is `down`, one that does not exist yet is not."""
        if not isinstance(asked.gate, Measured):
            raise TypeError(f"the inference log cannot provide {asked.gate.metric!r}")
        cursor = cursor or {"begin": now}
        found = self._found(asked, asked.gate, cursor, now=now)
        try:
            self._read_on(found, asked, asked.gate, now=now)
        except (errors.Damaged, OSError) as error:
            return base.SourceReading(observations=[Observation(at=now, down=True, detail=str(error))], cursor=cursor)
        self._tell(found.blocks, asked, now=now)
        answer = _closed(found.blocks, asked, asked.gate, cursor, now=now)
        if not answer.observations:
            # Such an answer need not be stored, so these blocks would come again each time; they were empty.
            found.blocks.forget(answer.cursor.get("done", -1))
        return answer

    def close(self) -> None:
        self._open = {}

    def _found(self, asked: base.MeasurementRequest, gate: Measured, cursor: base.Cursor, *, now: float) -> _Open:
        """The in-memory state advanced to *cursor*; restarted if it is already further, or absent."""
        self._open = {key: one for key, one in self._open.items() if now - one.asked_at < IDLE_S}
        key = (gate, asked.watched, asked.beside, asked.mirrored, cursor["begin"])
        done, told = cursor.get("done", -1), cursor.get("told", 0.0)
        found = self._open.get(key)
        if found is None or found.handed_out > done:
            found = self._open[key] = self._begin(gate, cursor, flush_s=asked.flush_s)
        found.blocks.forget(done, told=told)
        found.handed_out, found.asked_at = done, now
        return found

    def _begin(self, gate: Measured, cursor: base.Cursor, *, flush_s: float) -> _Open:
        labels = isinstance(gate, gates.Score) and not gate.score.startswith("output.")
        blocks = OpenBlocks(
            begin=cursor["begin"],
            length_s=gate.block_s if isinstance(gate, gates.Score) else AGREEMENT_BLOCK_S,
            labels=labels,
            done=cursor.get("done", -1),
            told=cursor.get("told", 0.0),
            level=cursor.get("level", 0),
            capacity=self._capacity,
            flush_s=flush_s,
        )
        blocks.late, blocks.unclear, blocks.dropped = (cursor.get(name, 0) for name in ("late", "unclear", "dropped"))

        def tail(log: str, columns: Collection[str]) -> tails.Tail:
            return tails.Tail(self._folder / log, since=blocks.open_since, columns=columns, load=self._load)

        return _Open(
            blocks=blocks,
            answers=tail(inference_log.PREDICTIONS, _ANSWERS),
            feedback=tail(inference_log.FEEDBACK, _FEEDBACK) if labels else None,
        )

    def _tell(self, blocks: OpenBlocks, asked: base.MeasurementRequest, *, now: float) -> None:
        """Record on disk how many rows this gate has skipped, for the operators."""
        if blocks.passed_over > blocks.reported:
            who = f"gate-{asked.gate.metric}-{getattr(asked.gate, 'score', '')}"
            folder = self._folder / (inference_log.PREDICTIONS if isinstance(asked.gate, gates.Agreement) else inference_log.FEEDBACK)
            losses.record(folder, who, unreadable=blocks.passed_over, why=blocks.why, now=now)
            blocks.reported = blocks.passed_over

    def _load(self, path: Path, *, since: float, columns: Collection[str]) -> pa.Table | None:
        shared = self._shared[1]
        if path not in shared:
            table = segments.load_segment(path, since=since, columns=columns)
            if table is None or table.num_rows > SHARED_ROWS:
                return table
            shared[path] = table
        return shared[path]

    def _read_on(self, found: _Open, asked: base.MeasurementRequest, gate: Measured, *, now: float) -> None:
        if self._shared[0] != now:
            self._shared = now, {}
        for table in found.answers.read(now=now):
            _take_answers(found.blocks, table, asked, gate)
        if found.feedback is not None and isinstance(gate, gates.Score):
            # After the answers, so that nearly every label finds its own.
            for table in found.feedback.read(now=now):
                _take_labels(found.blocks, table, gate)
                found.blocks.settle(now=now)
            found.blocks.settle(now=now)


def _take_answers(blocks: OpenBlocks, table: pa.Table, asked: base.MeasurementRequest, gate: Measured) -> None:
    """Row by row: one that cannot be read is skipped and counted."""
    import pyarrow as pa
    import pyarrow.compute as pc

    bundles = [bundle for bundle in (asked.watched, asked.beside) if bundle is not None]
    table = table.filter(pc.is_in(table["bundle"], value_set=pa.array(bundles, pa.string())))
    for at, request_id, row, bundle, arm, shadow, probability, output, caller_id, latency_us in _rows(table, _ANSWERS):
        try:
            which = _arm(asked, bundle, shadow=shadow, arm=arm)
            if which is not None:
                # By the time of the answer: a request that took minutes would be too late for the block in which it was sent.
                answered = at + (latency_us or 0) / 1e6
                blocks.answer(_key(request_id, row), which, answered, _answer(gate, probability, output), caller_id=caller_id)
        except _UNREADABLE as error:
            blocks.unreadable(error)


def _arm(asked: base.MeasurementRequest, bundle: str, *, shadow: bool, arm: str | None) -> Arm | None:
    """The side on which an answer counts, if any. An answer to a copy that was never sent counts on neither."""
    if bundle == asked.watched:
        if shadow:
            return "mirror" if asked.mirrored or asked.copied else None
        return None if asked.mirrored or arm == "debug" else "live"
    if asked.control and arm != "control":
        return None
    return None if shadow or arm == "debug" else "beside"


def _answer(gate: Measured, probability: float | None, output: str) -> Any:
    """The part of an answer that has to be remembered."""
    probability = _number(probability)
    if isinstance(gate, gates.Agreement):
        if probability is None:
            json.loads(output)  # it is compared when its block is complete; then it is too late to skip a row
        return probability, None if probability is not None else output
    if gate.score.startswith("output."):
        return _number(json.loads(output).get(gate.score.partition(".")[2]))
    return probability


def _take_labels(blocks: OpenBlocks, table: pa.Table, gate: gates.Score) -> None:
    field = gate.score.partition(".")[2] if gate.score.startswith("outcome.") else None
    for at, request_id, row, label, outcome in _rows(table, _FEEDBACK):
        try:
            value = _number(label) if field is None else _number(json.loads(outcome).get(field))
            if value is not None:
                blocks.label(_key(request_id, row), at, value)
        except _UNREADABLE as error:
            blocks.unreadable(error)


def _rows(table: pa.Table, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """`at` in Unix seconds, and *columns*, row by row; None for what a segment lacks."""
    import pyarrow as pa

    at = [moment / 1e6 for moment in table["at"].cast(pa.int64()).to_pylist()]
    nothing = [None] * len(at)
    yield from zip(at, *(table[name].to_pylist() if name in table.column_names else nothing for name in columns), strict=True)


def _key(request_id: Any, row: Any) -> Key:
    if not (isinstance(request_id, str) and isinstance(row, int)):
        raise TypeError("a row without an id")
    return request_id, row


def _number(value: Any) -> float | None:
    """None if it is not a number. Raises ValueError for an unusable number: refused today, but older logs may have some."""
    if not isinstance(value, int | float):
        return None
    if not abs(value) <= feedback.MAX_FIGURE:
        raise ValueError("a number that is not finite, or too large to compute with")
    return float(value)


def _closed(blocks: OpenBlocks, asked: base.MeasurementRequest, gate: Measured, cursor: base.Cursor, *, now: float) -> base.SourceReading:
    done = blocks.closed(now=now)
    if done == blocks.done:
        return base.SourceReading(observations=[], cursor=cursor)
    whole = list(blocks.rows(until=done))
    tallies: list[tuple[int, Tally, Tally | None]]
    if isinstance(gate, gates.Agreement):
        tallies = [(done, _agreement(gate, [row for _, rows in whole for row in rows]), None)]
    else:
        tallies = [(number, *_score(gate, asked, rows)) for number, rows in whole]
    seen = [
        Observation(at=blocks.end(number), watched=watched, beside=beside, share=asked.share)
        for number, watched, beside in tallies
        if watched.n or (beside is not None and beside.n)
    ]
    if seen:
        seen[-1] = dataclasses.replace(seen[-1], detail=_left_out(blocks))
    counts = {"late": blocks.late, "unclear": blocks.unclear, "dropped": blocks.dropped, "level": blocks.level}
    return base.SourceReading(observations=seen, cursor={"begin": blocks.begin, "done": done, "told": now, **counts})


def _agreement(gate: gates.Agreement, rows: Sequence[ScoredRow]) -> Tally:
    pairs = [(row.mirror[1], row.beside[1]) for row in rows if row.mirror and row.beside]
    return Tally(n=len(pairs), bad=sum(not _alike(one, other, tolerance=gate.tolerance) for one, other in pairs))


def _alike(one: tuple[float | None, Any], other: tuple[float | None, Any], *, tolerance: float) -> bool:
    if one[0] is not None and other[0] is not None:
        return abs(one[0] - other[0]) <= tolerance + SAME
    if one[0] is not None or other[0] is not None:
        return False
    return bool(json.loads(one[1]) == json.loads(other[1]))


def _score(gate: gates.Score, asked: base.MeasurementRequest, rows: Sequence[ScoredRow]) -> tuple[Tally, Tally | None]:
    """Both arms of one block, paired where the watched bundle gets copies; an outcome that an answer led to is never that of a copy.

    What was sent is known from the question. Rows only show what their sender made of them.
    """
    scored = [_scored(gate, row) for row in rows]
    if asked.beside is None:
        return _sum([mirror if asked.mirrored else live for live, mirror, _ in scored]), None
    if not gate.of_users and (asked.mirrored or asked.copied):
        pairs = [(mirror, beside) for _, mirror, beside in scored if mirror is not None and beside is not None]
        return _sum([mirror for mirror, _ in pairs]), _sum([beside for _, beside in pairs])
    return _sum([live for live, _, _ in scored]), _sum([beside for _, _, beside in scored])


def _scored(gate: gates.Score, row: ScoredRow) -> tuple[float | None, float | None, float | None]:
    """The scores of live, mirror and beside; None where there is no answer, no label, or nothing to score."""
    return _value(gate, row.live, row.label), _value(gate, row.mirror, row.label), _value(gate, row.beside, row.label)


def _value(gate: gates.Score, said: Timed | None, label: Timed | None) -> float | None:
    if said is None:
        return None
    found: float | None = said[1]
    if gate.score.startswith("output."):
        return found
    if label is None:
        return None
    if gate.of_users:
        return float(label[1])
    try:
        return None if found is None else SCORES[gate.score](found, label[1])
    except (OverflowError, ValueError):  # a prediction or label that this score does not apply to
        return None


def _sum(values: Sequence[float | None]) -> Tally:
    counted = [value for value in values if value is not None]
    return Tally(n=len(counted), total=math.fsum(counted))


def _left_out(blocks: OpenBlocks) -> str:
    bad = f"{blocks.passed_over:,} rows could not be read and were skipped ({blocks.why})" if blocks.passed_over else ""
    late = f"{blocks.late:,} labels arrived after their block was closed, or belong to no answer of these bundles" if blocks.late else ""
    unclear = f"{blocks.unclear:,} labels match several requests; send the answer's request_id" if blocks.unclear else ""
    dropped = f"{blocks.dropped:,} rows were left out to save memory; one request in {1 << blocks.level} counts" if blocks.level else ""
    return "; ".join(text for text in (bad, late, unclear, dropped) if text)

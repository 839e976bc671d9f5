"""Answered rows of two bundles joined with their true outcomes, in blocks of time: which are open, and when each is complete.

A row belongs to the block in which it was answered. A block is *closed*, and handed out once, when its labels are as complete as
can be determined: none has arrived for a block's length (5 s at least), or a later block has more than half of its own. Blocks are
closed in order, so closing a later one closes those before it. A label for a closed block is late: it is counted and left out,
because otherwise the same minute would count as two observations. So if labels trickle in over an hour, a gate's `block_s` should be
an hour too.

A label names the request by the id of the answer, or by the caller's own, which counts as long as only one open request has it.

Memory is bounded: beyond CAPACITY open rows only every second request is kept, then every fourth, by a hash of its id,
which keeps both bundles' answers to it.

What does not belong here: files (`serving.segments`), how a row is scored (`inference`).
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Literal

from lastgood.serving.row_ids import CallerIds

Key = tuple[str, int]
"""Request id and number of the row within the request."""

Arm = Literal["live", "mirror", "beside"]
"""The watched bundle's answer to a user, its answer to a copy, and the other bundle's answer to a user."""

Timed = tuple[float, Any]
"""When it was logged (Unix seconds), and the value."""

SETTLE_S = 5.0
"""Seconds beyond the log's flush time until a row is certainly on disk, and the shortest quiet period that closes a block."""
UNMATCHED_S = 30.0
"""Seconds, likewise, for which a label waits for its answer to be written."""
USUAL_FLUSH_S = 1.0
"""The flush time that these assume; the excess of a slower log is added."""
CAPACITY = 200_000
"""Open rows of one gate, some 80 MB."""


@dataclasses.dataclass(slots=True)
class ScoredRow:
    """One row of a request: each bundle's answer, and its label. The newest of each counts."""

    live: Timed | None = None
    mirror: Timed | None = None
    beside: Timed | None = None
    label: Timed | None = None

    @property
    def answered(self) -> float:
        """When the last of the answers was given."""
        return max(said[0] for said in (self.live, self.mirror, self.beside) if said is not None)


class OpenBlocks:
    """The open rows of one gate. Block 0 starts at *begin*, each is *length_s* long; all up to *done* are handed out.

    Rows answered before the first open block are not accepted. *labels* tells whether rows need one. *told* is when the last block was
    handed out: labels from before it are not counted as late again. *level* is how far rows are thinned out, *flush_s* how often the
    logs are written.
    """

    def __init__(
        self,
        *,
        begin: float,
        length_s: float,
        labels: bool,
        done: int = -1,
        told: float = 0.0,
        level: int = 0,
        capacity: int = CAPACITY,
        flush_s: float = USUAL_FLUSH_S,
    ) -> None:
        self.begin, self.length_s, self.done, self.level = begin, length_s, done, level
        self._slow_log_s = max(0.0, flush_s - USUAL_FLUSH_S)
        self.late = self.unclear = self.dropped = self.passed_over = self.reported = 0
        self.why = ""
        self._labels, self._told, self._capacity = labels, told, capacity
        self._rows: dict[int, dict[Key, ScoredRow]] = defaultdict(dict)
        self._place: dict[Key, int] = {}
        self._labelled: dict[int, int] = defaultdict(int)
        self._newest: dict[int, float] = defaultdict(float)
        self._unmatched: dict[Key, Timed] = {}
        self._callers = CallerIds()

    @property
    def open_since(self) -> float:
        """Start of the first open block, in Unix seconds."""
        return self.begin + (self.done + 1) * self.length_s

    def end(self, number: int) -> float:
        """End of block *number*, in Unix seconds."""
        return self.begin + (number + 1) * self.length_s

    def answer(self, key: Key, arm: Arm, at: float, value: Any, *, caller_id: str | None = None) -> None:
        """Take in *arm*'s answer *value*. Repeating it changes nothing."""
        if at < self.open_since or not self._kept(key):
            return
        if caller_id is not None:
            self._callers.add(caller_id, key[0])
        row = self._take_out(key) or ScoredRow()
        known: Timed | None = getattr(row, arm)
        if known is None or known[0] <= at:
            setattr(row, arm, (at, value))
        if row.label is None:
            row.label = self._unmatched.pop(key, None) or self._by_caller(key, caller_id)
        self._put(key, row)
        if len(self._place) > self._capacity:
            self._thin_out()

    def label(self, key: Key, at: float, value: Any) -> None:
        """Take in a true outcome; the newest label counts."""
        if key not in self._place:
            owners = self._callers.get(key[0])
            if len(owners) > 1:
                self.unclear += at > self._told
                return
            key = (owners[0], key[1]) if owners else key
        if not self._kept(key):
            return
        row = self._take_out(key)
        known = row.label if row else self._unmatched.get(key)
        newest = known if known is not None and known[0] > at else (at, value)
        if row is None:
            self._unmatched[key] = newest
        else:
            row.label = newest
            self._put(key, row)

    def unreadable(self, error: Exception) -> None:
        """Count a row of a log that could not be read and was skipped."""
        self.passed_over += 1
        self.why = f"{type(error).__name__}: {error}"[:200]

    def settle(self, *, now: float) -> None:
        """Drop labels whose answer should have arrived long ago: it is in a closed block, or was never given."""
        given_up = [key for key, (at, _) in self._unmatched.items() if at < now - UNMATCHED_S - self._slow_log_s]
        for key in given_up:
            self.late += self._unmatched.pop(key)[0] > self._told

    def closed(self, *, now: float) -> int:
        """The number of the last closed block; all before it are closed."""
        found = self.done
        for number, rows in self._rows.items():
            if now < self.end(number) + SETTLE_S + self._slow_log_s:
                continue
            if not self._labels:
                found = max(found, number)
            elif self._labelled[number]:
                quiet_s = now - max(self._newest[number], self.end(number))
                if quiet_s >= max(self.length_s, SETTLE_S + self._slow_log_s):
                    found = max(found, number)
                elif 2 * self._labelled[number] > len(rows):
                    found = max(found, number - 1)
        return found

    def rows(self, *, until: int) -> Iterator[tuple[int, list[ScoredRow]]]:
        """Number and rows of each non-empty open block up to *until*, in order."""
        for number in sorted(number for number in self._rows if number <= until):
            yield number, list(self._rows[number].values())

    def forget(self, until: int, *, told: float = 0.0) -> None:
        """Drop the blocks up to *until*: handed out and stored, at *told* if that is known, or empty."""
        for number in [number for number in self._rows if number <= until]:
            for key in self._rows.pop(number):
                del self._place[key]
                self._callers.forget(key[0])
            self._labelled.pop(number, None)
            self._newest.pop(number, None)
        self.done, self._told = max(self.done, until), max(self._told, told)

    def _by_caller(self, key: Key, caller_id: str | None) -> Timed | None:
        """The label that arrived before its answer under the caller's id, if only this request has that id."""
        if caller_id is None or len(self._callers.get(caller_id)) != 1:
            return None
        return self._unmatched.pop((caller_id, key[1]), None)

    def _kept(self, key: Key) -> bool:
        return self.level == 0 or zlib.crc32(key[0].encode()) % (1 << self.level) == 0

    def _take_out(self, key: Key) -> ScoredRow | None:
        number = self._place.pop(key, None)
        if number is None:
            return None
        row = self._rows[number].pop(key)
        if row.label is not None:
            self._labelled[number] -= 1
        return row

    def _put(self, key: Key, row: ScoredRow) -> None:
        number = math.floor((row.answered - self.begin) / self.length_s)
        self._place[key] = number
        self._rows[number][key] = row
        if row.label is not None:
            self._labelled[number] += 1
            self._newest[number] = max(self._newest[number], row.label[0])

    def _thin_out(self) -> None:
        self.level += 1
        for key in [key for key in self._place if not self._kept(key)]:
            self._take_out(key)
            self._callers.forget(key[0])
            self.dropped += 1
        for key in [key for key in self._unmatched if not self._kept(key)]:
            del self._unmatched[key]

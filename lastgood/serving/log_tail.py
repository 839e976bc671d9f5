"""Following a log of segments as it grows.

What does not belong here: how a log is written, merged and expired (`segments`).
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lastgood.serving import segments

if TYPE_CHECKING:
    import pyarrow as pa

Load = Callable[..., "pa.Table | None"]
"""Reads one segment, as `segments.load_segment` does."""
SKEW_S = 300.0
"""Seconds by which the clocks of writers, and of the disk that they write to, may differ."""


class Tail:
    """Follows a log as it grows: each call returns new rows with `at` >= *since* (Unix seconds), as a rule each row once.

    A file is not read if its name, its modification time (with tolerance for a writer whose clock is SKEW_S ahead of the disk's) or
    its statistics show that its rows are old or known, so a call costs what is new, whatever the length of the log. Around midnight,
    where a writer's numbers have gaps, a row may be returned twice; a row written more than a day late is not returned. *load* reads
    one segment (default: `segments.load_segment`). Not thread-safe.
    """

    def __init__(self, folder: Path, *, since: float, columns: Collection[str], load: Load | None = None) -> None:
        self._folder = folder
        self._since = since
        self._columns = columns
        self._load = load or segments.load_segment
        self._from_day = segments.day_name(since - SKEW_S)
        self._known: dict[tuple[str, str], list[_Known]] = defaultdict(list)

    def read(self, *, now: float) -> Iterator[pa.Table]:
        """The new rows, one table per segment; a segment counts as read once the next table is requested.

        Raises Damaged or OSError for a segment that cannot be read; the segments before it have been returned.
        """
        for day in sorted(self._folder.glob("dt=*")):
            if day.name >= self._from_day:
                yield from self._read_day(day)
        self._from_day = max(self._from_day, segments.day_name(now - 86_400))
        self._known = defaultdict(list, {key: known for key, known in self._known.items() if key[0] >= self._from_day})

    def _read_day(self, day: Path) -> Iterator[pa.Table]:
        try:
            names = [path.name for path in day.iterdir()]
        except FileNotFoundError:  # expired
            return
        for first, last, name in sorted(segments.current(names).values()):
            known = self._known[day.name, name.partition(".")[0]]
            reach, skipped = _reach(known, first=first, last=last)
            rows: int | None = skipped
            if reach < last:
                try:
                    old = (day / name).stat().st_mtime < self._since - SKEW_S
                    table = None if old else self._load(day / name, since=self._since, columns=self._columns)
                except FileNotFoundError:  # merged since the folder was listed; the next call finds its rows in the merged one
                    continue
                if table is not None:
                    yield table.slice(skipped or 0)
                rows = None if table is None else table.num_rows
            known[:] = [piece for piece in known if piece.first > last or piece.last < first] + [_Known(first, last, rows)]


@dataclasses.dataclass(frozen=True, slots=True)
class _Known:
    """Numbers *first* to *last* of a writer have been read, or need not be; *rows* is None if they were not counted."""

    first: int
    last: int
    rows: int | None


def _reach(known: Sequence[_Known], *, first: int, last: int) -> tuple[int, int | None]:
    """The number up to which the segment *first* to *last* is known without a gap, and how many rows that is, if known.

    Anything known behind a gap does not count: reading twice is better than never.
    """
    reach = first - 1
    rows: int | None = 0
    for piece in sorted(known, key=lambda piece: piece.first):
        if piece.first <= first and last <= piece.last:
            return last, piece.rows
        if piece.first == reach + 1 and piece.last <= last:
            reach, rows = piece.last, None if rows is None or piece.rows is None else rows + piece.rows
    return reach, rows

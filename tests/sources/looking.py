"""Asking a source as the judge does: again and again, with the cursor of the last answer that was kept."""

from __future__ import annotations

import itertools
from typing import Any

from lastgood.gates.base import Observation
from lastgood.service import gates
from lastgood.sources import base


class Looker:
    """One gate's place at a source. The clock only moves when told, or by a thousandth, so that no two looks are one."""

    def __init__(self, source: base.Source, gate: gates.AnyGate, watched: str, beside: str | None = None, **more: Any) -> None:
        self.source = source
        self.asked = base.MeasurementRequest(gate=gate, watched=watched, beside=beside, **more)
        self.cursor: base.Cursor | None = None
        self._ticks = itertools.count(1)

    def look(self, now: float | None = None) -> list[Observation]:
        """What came; the cursor is kept by the judge's rule: with the first answer, then only with an observation."""
        answer = self.source.read(self.asked, now=next(self._ticks) / 1000 if now is None else now, cursor=self.cursor)
        if answer.observations or self.cursor is None:
            self.cursor = dict(answer.cursor)
        return list(answer.observations)

    def one(self, now: float | None = None) -> Observation:
        """The only observation of a look."""
        (seen,) = self.look(now)
        return seen

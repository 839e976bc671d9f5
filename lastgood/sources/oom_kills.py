"""Workers killed because memory ran out, as counted by the infrastructure layer."""

from __future__ import annotations

from collections.abc import Callable

from lastgood.gates.base import Observation, Tally
from lastgood.layers import base as layers
from lastgood.sources import base


class WorkersSource(base.Source):
    """Reads `oom_kills` from the facts of the infrastructure layer made by *build*; None if the service has none.

    The layer keeps that count across restarts of the worker and of the controller, and resets it once a worker has lived and been
    ready for a minute: a worker that is restarted after each kill would look healthy at any single moment.
    """

    def __init__(self, build: Callable[[], layers.Layer | None]) -> None:
        self._build = build
        self._layer: layers.Layer | None = None
        self._seen: tuple[float, layers.Observed | str] | None = None

    def read(self, asked: base.MeasurementRequest, *, now: float, cursor: base.Cursor | None) -> base.SourceReading:
        """One reading; no observation while the layer knows no worker of the bundle. The count may be older than the analysis."""
        if self._seen is None or self._seen[0] != now:
            self._seen = now, self._look()
        found = self._seen[1]
        if isinstance(found, str):
            return base.SourceReading(observations=[Observation(at=now, down=True, detail=found)], cursor={})
        facts = found.facts.get("workers", {}).get(asked.watched)
        if facts is None or "oom_kills" not in facts:
            return base.SourceReading(observations=[], cursor={})
        seen = Observation(at=now, watched=Tally(n=1, value=float(facts["oom_kills"])))
        return base.SourceReading(observations=[seen], cursor={})

    def close(self) -> None:
        if self._layer is not None:
            self._layer.close()
            self._layer = None

    def _look(self) -> layers.Observed | str:
        try:
            if self._layer is None:
                self._layer = self._build()
            if self._layer is None:
                return "no infrastructure layer is configured to count kills; set layers.infrastructure, or remove the gate"
            return self._layer.observe()
        except layers.LayerError as error:
            return str(error)

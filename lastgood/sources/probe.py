"""Whether a service that this one depends on is healthy: one GET per reading."""

from __future__ import annotations

from lastgood.gates.base import Observation, Tally
from lastgood.service import gates
from lastgood.sources import base
from lastgood.sources import http_get as web


class ProbeSource(base.Source):
    """Sends a request to the gate's URL."""

    def read(self, asked: base.MeasurementRequest, *, now: float, cursor: base.Cursor | None) -> base.SourceReading:
        """One probe: good if answered with 2xx within the gate's `timeout_s`.

        A refused connection, a redirection or a slow answer is a bad probe: the other service is not healthy. Never `down`.
        """
        gate = asked.gate
        if not isinstance(gate, gates.Downstream) or gate.url is None:
            raise TypeError(f"gate {gate.metric!r} has no URL to request")
        try:
            status, _ = web.get(gate.url, timeout_s=gate.timeout_s)
            trouble = "" if 200 <= status < 300 else f"answered {status}"
        except web.Failed as error:
            trouble = str(error)
        seen = Observation(at=now, watched=Tally(n=1, bad=int(bool(trouble))), detail=trouble)
        return base.SourceReading(observations=[seen], cursor={})

"""The source for each gate. A source's dependencies are imported only when it is used."""

from __future__ import annotations

import logging
from collections.abc import Callable

from lastgood.gates.base import Observation
from lastgood.service import gates
from lastgood.settings import Settings
from lastgood.sources import base

log = logging.getLogger("lastgood.sources")


class Sources:
    """The sources of one service. Not for concurrent use by several threads.

    *more* holds sources by kind that replace ours: envoy, inference, prometheus, probe, workers.
    """

    def __init__(self, settings: Settings, service: str, *, more: dict[str, base.Source] | None = None) -> None:
        self._settings = settings
        self._service = service
        self._open: dict[str, base.Source] = dict(more or {})
        self._faults: dict[str, str] = {}

    def read(self, name: str, asked: base.MeasurementRequest, *, now: float, cursor: base.Cursor | None) -> base.SourceReading:
        """The reading for the gate called *name* since *cursor*. Never raises: an error of a source is an observation with `down`."""
        try:
            answer = self._source(kind(asked.gate)).read(asked, now=now, cursor=cursor)
        except Exception as error:  # one source's error must cost neither the other gates nor the loop
            if self._faults.get(name) != repr(error):  # once, not every second
                log.exception("%s: the source of gate %r failed unexpectedly", self._service, name)
            self._faults[name] = repr(error)
            detail = f"unexpected error in the source of gate {name!r}: {error!r}; see the controller's log"
            return base.SourceReading(observations=[Observation(at=now, down=True, detail=detail)], cursor=cursor or {})
        self._faults.pop(name, None)
        return answer

    def close(self) -> None:
        """Close connections; a later `read` reopens them."""
        opened, self._open = self._open, {}
        for source in opened.values():
            source.close()

    def _source(self, wanted: str) -> base.Source:
        if wanted not in self._open:
            self._open[wanted] = _MAKE[wanted](self._settings, self._service)
        return self._open[wanted]


def kind(gate: gates.AnyGate) -> str:
    """The kind of source for *gate*."""
    match gate:
        case gates.ErrorRate() | gates.LatencyP99() | gates.SampleRatio() | gates.Ejections():
            return "envoy"
        case gates.Score() | gates.Agreement():
            return "inference"
        case gates.OutOfMemory():
            return "workers"
        case gates.Downstream(url=str()):
            return "probe"
        case _:
            return "prometheus"


def _envoy(settings: Settings, service: str) -> base.Source:
    from lastgood.sources import envoy

    return envoy.EnvoySource(settings, service)


def _inference(settings: Settings, service: str) -> base.Source:
    from lastgood.sources import inference

    return inference.InferenceSource(settings, service)


def _prometheus(settings: Settings, _: str) -> base.Source:
    from lastgood.sources import prometheus

    return prometheus.PrometheusSource(settings.metrics.prometheus_url)


def _probe(*_: object) -> base.Source:
    from lastgood.sources import probe

    return probe.ProbeSource()


def _workers(settings: Settings, service: str) -> base.Source:
    from lastgood.layers import catalog
    from lastgood.sources import oom_kills as workers

    chosen = settings.layers.infrastructure
    return workers.WorkersSource(lambda: catalog.load("infrastructure", chosen)(settings, service) if chosen else None)


_MAKE: dict[str, Callable[[Settings, str], base.Source]] = {
    "envoy": _envoy,
    "inference": _inference,
    "prometheus": _prometheus,
    "probe": _probe,
    "workers": _workers,
}

"""The counters of a worker, for Prometheus: few labels, each with few values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import metadata

import prometheus_client as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lastgood.bundle import manifest
from lastgood.serving import segments

CONTENT_TYPE = prometheus.CONTENT_TYPE_LATEST
ROUTES = ("/predict", "/feedback", "/healthz", "/readyz", "/metrics")
_BUCKETS_S = (
    0.001,
    0.002,
    0.003,
    0.005,
    0.0075,
    0.01,
    0.015,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
)


class Metrics:
    """The counters of one worker, in a registry of its own."""

    def __init__(self, *, service: str, bundle: str, logs: Mapping[str, segments.SegmentLog]) -> None:
        self._registry = prometheus.CollectorRegistry()
        self._requests = prometheus.Counter(
            "lastgood_requests", "Answered requests by route and status code.", ["route", "code"], registry=self._registry
        )
        self._seconds = prometheus.Histogram(
            "lastgood_request_seconds", "Seconds from a request's head to the end of its answer.", ["route"],
            buckets=_BUCKETS_S, registry=self._registry,
        )  # fmt: skip
        self._predictions = prometheus.Counter("lastgood_predictions", "Predicted rows.", ["shadow"], registry=self._registry)
        self._refused_rows = prometheus.Counter(
            "lastgood_refused_rows",
            "Rows (requests, where no row is to blame) that were refused, by kind.",
            ["kind"],
            registry=self._registry,
        )
        self._cached = prometheus.Counter("lastgood_cached_rows", "Rows looked up in the answer cache.", ["hit"], registry=self._registry)
        self._refused = prometheus.Counter(
            "lastgood_too_many", "Requests answered with 429: one user or one address had too many.", ["route"], registry=self._registry
        )
        self._repeated = prometheus.Counter(
            "lastgood_repeated_caller_ids", "Requests that reused the x-request-id of an earlier request.", registry=self._registry
        )
        self.repeated_ids = self.unclear = 0
        """The same two counts as plain numbers, for the worker's status."""
        self._unclear = prometheus.Counter(
            "lastgood_unclear_feedback", "Feedback refused because its id matches several requests.", registry=self._registry
        )
        self._ready = prometheus.Gauge("lastgood_ready", "1 once the warm-up was answered.", registry=self._registry)
        build = prometheus.Gauge(
            "lastgood_build_info", "Always 1; what this worker serves.", ["service", "bundle", "version"], registry=self._registry
        )
        build.labels(service, manifest.short(bundle), _version()).set(1)
        self._registry.register(_Logs(logs))

    def request(self, *, path: str, code: int, seconds: float) -> None:
        """Count one answered request; unknown paths share one label."""
        route = path if path in ROUTES else "other"
        self._requests.labels(route, str(code)).inc()
        self._seconds.labels(route).observe(seconds)

    def predictions(self, rows: int, *, shadow: bool) -> None:
        """Count predicted rows."""
        self._predictions.labels(str(shadow).lower()).inc(rows)

    def refused(self, rows: int, *, kind: str) -> None:
        """Count refused rows; *kind* is one of `border.KINDS`, or empty for a refusal that is not about rows."""
        if kind:
            self._refused_rows.labels(kind).inc(rows)

    def cached(self, *, hits: int, misses: int) -> None:
        """Count rows looked up in the cache."""
        self._cached.labels("true").inc(hits)
        self._cached.labels("false").inc(misses)

    def repeated_id(self) -> None:
        """Count a request whose caller's id was used by an earlier one."""
        self._repeated.inc()
        self.repeated_ids += 1

    def unclear_feedback(self) -> None:
        """Count feedback whose id matches several requests."""
        self._unclear.inc()
        self.unclear += 1

    def refused_for_now(self, *, path: str) -> None:
        """Count a request answered with 429."""
        self._refused.labels(path if path in ROUTES else "other").inc()

    def ready(self) -> None:
        """The warm-up was answered."""
        self._ready.set(1)

    def text(self) -> bytes:
        """The exposition text."""
        return prometheus.generate_latest(self._registry)


class _Logs(Collector):
    """The logs' own counts, read on request."""

    def __init__(self, logs: Mapping[str, segments.SegmentLog]) -> None:
        self._logs = logs

    def collect(self) -> Iterable[Metric]:
        written = CounterMetricFamily("lastgood_log_rows_written", "Rows on disk.", labels=["log"])
        lost = CounterMetricFamily(
            "lastgood_log_rows_lost", "Rows that could not be written, or that the disk refused for too long.", labels=["log"]
        )
        odd = CounterMetricFamily("lastgood_log_rows_unwritable", "Lost rows whose values did not fit a column.", labels=["log"])
        failures = CounterMetricFamily("lastgood_log_write_failures", "Failed attempts to write or tidy up.", labels=["log"])
        waiting = GaugeMetricFamily("lastgood_log_rows_waiting", "Rows in memory, not on disk yet.", labels=["log"])
        for name, log in self._logs.items():
            stats = log.stats()
            for metric, value in (
                (written, stats.written),
                (lost, stats.lost),
                (odd, stats.unwritable),
                (failures, stats.failures),
                (waiting, stats.waiting),
            ):
                metric.add_metric([name], value)
        return [written, lost, odd, failures, waiting]


def _version() -> str:
    try:
        return metadata.version("lastgood")
    except metadata.PackageNotFoundError:
        return "source"

"""What the proxy saw of each arm: failed tries, times, the split, and whom it put out by itself.

    gate            watched arm, live           watched arm, mirrored      cluster of the bundle
    error_rate      its workers' own answers    the same                   b-<hex12>, by endpoint
    latency_p99     what its users waited       what its copies took       b-<hex12>.safe; mirrored b-<hex12>
    sample_ratio    requests routed to it       -                          b-<hex12>.safe
    ejections       ejections of its workers    -                          b-<hex12>, and the log of ejections

With a control arm `beside` is `b-<hex12>-control.safe`, and for errors, which need no equal arms, both clusters of the bundle.

An error is counted where it was made: a try that failed and was then answered by the fallback bundle is a failure of the
bundle that was tried first, though no user saw it. Health checks are not counted.

A request by debug token goes straight to `b-<hex12>`, as a mirrored one does, and the proxy counts them together: it adds to
a bundle's errors and, while the bundle is mirrored, to its times. Whoever hammers a candidate by token changes its numbers; a
few looks do not. A canary that is mirrored besides has the answers to copies among its errors as well.

What does not belong here: how Envoy names its counters (`layers.traffic.envoy_stats`), when a number is too high (`gates`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lastgood import arms, conditions
from lastgood import settings as settings_
from lastgood.gates.base import Observation, Tally
from lastgood.layers import base as layers
from lastgood.layers.traffic import envoy_admin, envoy_config, envoy_files, envoy_stats
from lastgood.sources import base

TIMEOUT_S = 0.9
"""Seconds for one question; a kept connection is tried twice, and a source may take two seconds."""

Clusters = Mapping[str, envoy_stats.Cluster]


class EnvoySource(base.Source):
    """One service's Envoy. However many gates ask at one moment, it is read once."""

    def __init__(self, settings: settings_.Settings, service: str) -> None:
        self._files = envoy_files.of(settings, service)
        self._admin: envoy_admin.Admin | None = None
        self._ejections = envoy_stats.Ejections(self._files.ejections)
        self._seen: tuple[float, Clusters | str] | None = None

    def read(self, asked: base.Asked, *, now: float, cursor: base.Cursor | None) -> base.Answer:
        """What was counted since *cursor*: one observation, or none on the first look, which only notes where the counters stand.

        An Envoy that does not answer is `down`, and the cursor stays. Counters that went back, because Envoy or a
        worker began anew or its cluster was rebuilt, count from zero; what came between the last look and that is lost.
        """
        clusters = self._clusters(now)
        if isinstance(clusters, str):
            return base.Answer(observations=[Observation(at=now, down=True, detail=clusters)], cursor=cursor or {})
        if isinstance(asked.gate, conditions.Ejections):
            return self._put_out(asked, clusters, now=now, before=cursor or {})
        return _counted(asked, clusters, now=now, before=cursor or {})

    def close(self) -> None:
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    def _clusters(self, now: float) -> Clusters | str:
        """The counts of this moment, or why there are none."""
        if self._seen is None or self._seen[0] != now:
            self._seen = now, self._ask()
        return self._seen[1]

    def _ask(self) -> Clusters | str:
        if self._admin is None or self._admin.path != self._files.admin:
            self.close()
            self._admin = envoy_admin.Admin(self._files.admin, timeout_s=TIMEOUT_S)
        try:
            return envoy_stats.read(self._admin)
        except layers.LayerError as error:
            return str(error)

    def _put_out(self, asked: base.Asked, clusters: Clusters, *, now: float, before: base.Cursor) -> base.Answer:
        """Ejections so far. The log knows those that nobody watched, the counter those that the log has not got yet: the higher holds."""
        name = envoy_config.cluster_name(asked.watched)
        total = clusters.get(name, envoy_stats.NOTHING).ejections
        counted = before["counted"] + _since(total, before["total"]) if "total" in before else 0
        try:
            logged = self._ejections.count(name, since=asked.since)
        except OSError as error:
            down = Observation(at=now, down=True, detail=f"the log of ejections cannot be read: {error}; correct its owner or mode")
            return base.Answer(observations=[down], cursor=before)
        seen = Observation(at=now, watched=Tally(n=1, value=float(max(counted, logged))))
        return base.Answer(observations=[seen], cursor={"total": total, "counted": counted})


def _counted(asked: base.Asked, clusters: Clusters, *, now: float, before: base.Cursor) -> base.Answer:
    """Both arms' counts as differences to *before*."""
    watched, watched_now = _arm(asked, clusters, asked.watched, mirrored=asked.mirrored, before=before.get("watched"))
    beside, beside_now = None, None
    if asked.beside is not None:
        beside, beside_now = _arm(asked, clusters, asked.beside, mirrored=False, control=asked.control, before=before.get("beside"))
    seen = Observation(at=now, watched=watched, beside=beside, share=asked.share)
    cursor = {"watched": watched_now, **({} if beside_now is None else {"beside": beside_now})}
    return base.Answer(observations=[seen] if before else [], cursor=cursor)


def _arm(
    asked: base.Asked,
    clusters: Clusters,
    bundle: str,
    *,
    mirrored: bool,
    control: bool = False,
    before: Mapping[str, Any] | None,
) -> tuple[Tally, dict[str, Any]]:
    """What the workers of *bundle* did; with *control* those of its control arm, or both where equal arms are not needed."""
    arm = arms.control_of(bundle) if control else bundle
    own = clusters.get(envoy_config.cluster_name(bundle), envoy_stats.NOTHING)
    route = clusters.get(envoy_config.safe_name(arm), envoy_stats.NOTHING)
    if isinstance(asked.gate, conditions.LatencyP99):
        return _slow(own if mirrored else route, before, limit_ms=asked.gate.max_ms)
    if isinstance(asked.gate, conditions.SampleRatio):
        # By route, not by worker: a request that was tried again elsewhere was routed once, and an ejection moves no user.
        n = 0 if before is None else _since(route.completed, before["n"])
        return Tally(n=n), {"n": route.completed}
    if control:
        # By worker: a control arm whose worker is gone would leave nothing to compare with.
        second = clusters.get(envoy_config.cluster_name(arm), envoy_stats.NOTHING)
        own = dataclasses.replace(own, answers={**own.answers, **second.answers})
    return _failed(own, before)


def _failed(own: envoy_stats.Cluster, before: Mapping[str, Any] | None) -> tuple[Tally, dict[str, Any]]:
    """Tries of the bundle's own workers, summed; a worker that is new counts from zero."""
    now = {place: [good, bad] for place, (good, bad) in own.answers.items()}
    if before is None:
        return Tally(), now
    n = bad = 0
    for place, (good, failed) in own.answers.items():
        good_before, failed_before = before.get(place, (0, 0))
        if good < good_before or failed < failed_before:
            good_before = failed_before = 0
        n += good - good_before + failed - failed_before
        bad += failed - failed_before
    return Tally(n=n, bad=bad), now


def _slow(route: envoy_stats.Cluster, before: Mapping[str, Any] | None, *, limit_ms: float) -> tuple[Tally, dict[str, Any]]:
    """Requests slower than *limit_ms*, and their P99. One that timed out has no time in Envoy's histogram; it was slow."""
    counts = {f"{bucket.low:g}": bucket.count for bucket in route.times}
    now: dict[str, Any] = {"times": counts, "timeouts": route.timeouts, "rest": 0.0}
    if before is None:
        return Tally(), now
    old: Mapping[str, int] = before["times"]
    if any(counts.get(low, 0) < count for low, count in old.items()):
        old = {}
    fresh = [envoy_stats.Bucket(b.low, b.high, b.count - old.get(f"{b.low:g}", 0)) for b in route.times]
    late = _since(route.timeouts, before["timeouts"])
    n = sum(bucket.count for bucket in fresh) + late
    # What a split bucket leaves over is carried on, or a fraction of one request would be rounded the same way each second.
    slow = envoy_stats.over(fresh, limit_ms) + late + before["rest"]
    bad = min(n, int(slow + 1e-9))
    now["rest"] = round(max(slow - bad, 0.0), 6)
    return Tally(n=n, bad=bad, value=envoy_stats.quantile(fresh, 0.99, slower=late)), now


def _since(now: int, before: int) -> int:
    """How far a counter went on; it counts from zero if it went back."""
    return now - before if now >= before else now

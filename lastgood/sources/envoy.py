"""What the proxy saw of each arm: failed requests, durations, the split, and which workers it ejected.

    gate            an arm with users                          an arm that answers copies (mirrored)
    error_rate      its requests, from the access log          tries of its workers, by endpoint of b-<hex12>
    latency_p99     what its users waited, from the same       what its copies took, from b-<hex12>
    sample_ratio    requests routed to it, from the same       -
    ejections       ejections of its workers, from b-<hex12> and the log of ejections

With a control arm, `beside` is that arm alone; for errors, which do not need equal arms, it is everything routed to the bundle.

A request counts once (`requests`): a failing worker that was tried three times for it is one failure, and one that the fallback
bundle then answered is a failure of the arm it was routed to, though no user saw it. What users saw is counted separately. A copy
is tried once, so its tries are its requests; the access log does not contain it.

A request by debug token for a bundle goes straight to `b-<hex12>`, like a mirrored one, and the proxy counts them together: it
adds to the errors and durations of a bundle that answers copies. Many requests by token to a candidate in shadow change its
numbers; a few do not.

What does not belong here: how Envoy names its counters (`layers.traffic.envoy.stats`) and writes its log (`envoy.requests`), when
a number is too high (`gates`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lastgood.core import arms
from lastgood.gates.base import Observation, Tally
from lastgood.layers import base as layers
from lastgood.layers.traffic.envoy import admin as envoy_admin
from lastgood.layers.traffic.envoy import config as envoy_config
from lastgood.layers.traffic.envoy import files as envoy_files
from lastgood.layers.traffic.envoy import requests as envoy_requests
from lastgood.layers.traffic.envoy import stats as envoy_stats
from lastgood.layers.traffic.envoy.requests import Batch, Place, Request
from lastgood.service import gates
from lastgood.settings import Settings
from lastgood.sources import base, requests
from lastgood.sources.users import Census, Judged

TIMEOUT_S = 0.9
"""Seconds for one query; a kept connection is tried twice, and a source may take two seconds."""

SILENT_S = 5.0
"""Seconds for which answers may be counted without a line in the log; Envoy writes it several times a second."""

Clusters = Mapping[str, envoy_stats.Cluster]


class EnvoySource(base.Source):
    """One service's Envoy. It is read once per moment, however many gates ask."""

    def __init__(self, settings: Settings, service: str) -> None:
        self._files = envoy_files.files_of_service(settings, service)
        self._admin: envoy_admin.Admin | None = None
        self._ejections = envoy_stats.Ejections(self._files.ejections)
        self._log = envoy_requests.RequestLog(self._files.access_log)
        self._seen: tuple[float, Clusters | str] | None = None
        self._read: tuple[float, dict[Place | None, Batch]] = (float("-inf"), {})
        self._answered = -1
        self._silent_since: float | None = None
        self._users: tuple[tuple[float, str, str], Census] | None = None

    def read(self, asked: base.MeasurementRequest, *, now: float, cursor: base.Cursor | None) -> base.SourceReading:
        """What was counted since *cursor*: one observation, or none on the first call, which only sets the starting point.

        An Envoy that does not answer is `down`, and so is a log that cannot be read; the cursor stays. The log is read continuously
        across rotations and restarts of Envoy. Counters (of copies) that were reset, because Envoy or a worker was restarted or its
        cluster was rebuilt, count from zero; what came between the last reading and the reset is lost. A cursor of an older release,
        which counted live arms differently, is restarted.
        """
        before = cursor or {}
        clusters = self._clusters(now)
        if isinstance(clusters, str):
            return base.SourceReading(observations=[Observation(at=now, down=True, detail=clusters)], cursor=before)
        if isinstance(asked.gate, gates.Ejections):
            return self._put_out(asked, clusters, now=now, before=before)
        since = envoy_requests.place(before.get("log"))
        if since is None:
            before = {}
        try:
            batch = self._lines(since, now=now)
        except envoy_requests.Unreadable as error:
            return base.SourceReading(observations=[Observation(at=now, down=True, detail=str(error))], cursor=cursor or {})
        trouble = self._trouble(batch, clusters, first=since is None, now=now)
        if trouble:
            return base.SourceReading(observations=[Observation(at=now, down=True, detail=trouble)], cursor=cursor or {})
        return _counted(asked, clusters, batch, now=now, before=before, census=self._census(asked))

    def _census(self, asked: base.MeasurementRequest) -> Census | None:
        """The users of this comparison; None if the watched arm has no share of the users."""
        if asked.beside is None or not asked.weight or asked.mirrored or not isinstance(asked.gate, gates.ErrorRate):
            return None
        comparison = (asked.since, asked.watched, asked.beside)
        if self._users is None or self._users[0] != comparison:
            self._users = comparison, Census()
        return self._users[1]

    def close(self) -> None:
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    def _clusters(self, now: float) -> Clusters | str:
        """The current counts, or why there are none."""
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

    def _lines(self, since: Place | None, *, now: float) -> Batch:
        """The requests after *since*, None for none; gates that stopped at the same place share one reading. Raises Unreadable."""
        if self._read[0] != now:
            self._read = now, {}
        held = self._read[1]
        if since not in held:
            held[since] = Batch(requests=(), end=self._log.end()) if since is None else self._log.read(since)
        return held[since]

    def _trouble(self, batch: Batch, clusters: Clusters, *, first: bool, now: float) -> str:
        """Why the log shows less than happened; empty if it does not."""
        if batch.bad and batch.bad == batch.lines:
            return f"no line of {self._files.access_log} can be read; run 'lastgood down' and 'lastgood up' to start a new proxy and log"
        answered = sum(cluster.completed for name, cluster in clusters.items() if name.endswith(".safe"))
        if first or batch.lines or not 0 <= self._answered < answered:
            self._answered, self._silent_since = answered, None
            return ""
        self._silent_since = now if self._silent_since is None else self._silent_since
        if now - self._silent_since < SILENT_S:
            return ""
        return f"the proxy answers, but writes nothing to {self._files.access_log}; check whether the disk is full, and free some space"

    def _put_out(self, asked: base.MeasurementRequest, clusters: Clusters, *, now: float, before: base.Cursor) -> base.SourceReading:
        """Ejections so far. The log has those that nobody watched, the counter those not yet in the log: the higher number counts."""
        name = envoy_config.cluster_name(asked.watched)
        total = clusters.get(name, envoy_stats.NOTHING).ejections
        counted = before["counted"] + _since(total, before["total"]) if "total" in before else 0
        try:
            logged = self._ejections.count(name, since=asked.since)
        except OSError as error:
            down = Observation(at=now, down=True, detail=f"the log of ejections cannot be read: {error}; correct its owner or mode")
            return base.SourceReading(observations=[down], cursor=before)
        seen = Observation(at=now, watched=Tally(n=1, value=float(max(counted, logged))))
        return base.SourceReading(observations=[seen], cursor={"total": total, "counted": counted})


def _counted(
    asked: base.MeasurementRequest, clusters: Clusters, batch: Batch, *, now: float, before: base.Cursor, census: Census | None = None
) -> base.SourceReading:
    """What both arms did since *before*; *batch* has the requests, *census* the users if they are counted."""
    own = clusters.get(envoy_config.cluster_name(asked.watched), envoy_stats.NOTHING)
    judged: Sequence[Judged] = ()
    if asked.mirrored:
        watched, watched_now = _copies(asked, own, before.get("watched"))
    else:
        watched, watched_now, judged = _live(asked, asked.watched, batch.requests, before.get("watched"))
        if asked.copied and isinstance(asked.gate, gates.ErrorRate):
            # Requests with users are charged to the route; copies and debug requests go straight to the bundle's own cluster.
            copies = _since(own.completed, before["watched"].get("copies", own.completed)) if "watched" in before else 0
            watched, watched_now = dataclasses.replace(watched, copies=copies), {**watched_now, "copies": own.completed}
    beside, beside_now, users = None, None, None
    if asked.beside is not None:
        beside, beside_now, others = _live(asked, asked.beside, batch.requests, before.get("beside"), control=asked.control)
        if census is not None and asked.weight:
            users = census.take(judged, others, share=asked.weight, since=envoy_requests.place(before.get("log")), end=batch.end)
    seen = Observation(at=now, watched=watched, beside=beside, share=asked.share, users=users)
    cursor = {"log": batch.end.to_json(), "watched": watched_now, **({} if beside_now is None else {"beside": beside_now})}
    return base.SourceReading(observations=[seen] if before else [], cursor=cursor)


# --- arms with users ---------------------------------------------------------------------------------------


def _live(
    asked: base.MeasurementRequest, bundle: str, found: Sequence[Request], before: Mapping[str, Any] | None, *, control: bool = False
) -> tuple[Tally, dict[str, Any], Sequence[Judged]]:
    """The results of requests routed to *bundle*; with *control* to its control arm, or to both where equal arms are not needed.

    The returned requests are those that count for an error rate.
    """
    gate = asked.gate
    own = list(requests.routed(found, _routes(bundle, control=control, all_of_it=isinstance(gate, gates.ErrorRate))))
    if isinstance(gate, gates.SampleRatio):
        # By route, whatever the result: a request retried elsewhere was routed once, and an ejection moves no user.
        return Tally(n=len(own)), {}, ()
    if isinstance(gate, gates.LatencyP99):
        return (*_waited(own, before or {}, limit_ms=gate.max_ms), ())
    callers = set((before or {}).get("callers", ()))
    found_bad = ((request, requests.judged(request, callers)) for request in own)
    judged = [Judged(request, *verdict) for request, verdict in found_bad if verdict is not None]
    tally = Tally(n=len(judged), bad=sum(one.failed for one in judged), user_errors=sum(one.user_error for one in judged))
    return tally, {"callers": sorted(callers)} if callers else {}, judged


def _routes(bundle: str, *, control: bool, all_of_it: bool) -> Collection[str]:
    if not control:
        return {envoy_config.safe_name(bundle)}
    # By both routes for errors: a control arm whose worker is gone would leave nothing to compare with.
    return {envoy_config.safe_name(arms.control_of(bundle)), *({envoy_config.safe_name(bundle)} if all_of_it else ())}


def _waited(own: Sequence[Request], before: Mapping[str, Any], *, limit_ms: float) -> tuple[Tally, dict[str, Any]]:
    """Requests slower than *limit_ms*, and their P99; the cursor accumulates the count of each bucket, for reports."""
    times, beyond = requests.waited(own, limit_ms=limit_ms)
    counts: dict[str, int] = dict(before.get("times", {}))
    for low, count in requests.buckets(times).items():
        counts[f"{low:g}"] = counts.get(f"{low:g}", 0) + count
    bad = sum(ms > limit_ms for ms in times) + beyond
    return Tally(n=len(times) + beyond, bad=bad, value=requests.quantile(times, 0.99, beyond=beyond)), {"times": counts}


# --- an arm that answers copies ----------------------------------------------------------------------------


def _copies(asked: base.MeasurementRequest, own: envoy_stats.Cluster, before: Mapping[str, Any] | None) -> tuple[Tally, dict[str, Any]]:
    if isinstance(asked.gate, gates.LatencyP99):
        tally, now = _slow(own, before, limit_ms=asked.gate.max_ms)
    elif isinstance(asked.gate, gates.SampleRatio):
        return Tally(), {}
    else:
        tally, now = _failed(own, before)
    return dataclasses.replace(tally, copies=tally.n), now


def _failed(own: envoy_stats.Cluster, before: Mapping[str, Any] | None) -> tuple[Tally, dict[str, Any]]:
    """Tries of the bundle's own workers, summed; a new worker counts from zero."""
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
    """Requests slower than *limit_ms*, and their P99. One that timed out has no time in Envoy's histogram; it counts as slow."""
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
    # The remainder of a split bucket is carried over, or a fraction of one request would be rounded the same way each second.
    slow = envoy_stats.over(fresh, limit_ms) + late + before["rest"]
    bad = min(n, int(slow + 1e-9))
    now["rest"] = round(max(slow - bad, 0.0), 6)
    return Tally(n=n, bad=bad, value=envoy_stats.quantile(fresh, 0.99, slower=late)), now


def _since(now: int, before: int) -> int:
    """By how much a counter increased; it counts from zero if it was reset."""
    return now - before if now >= before else now

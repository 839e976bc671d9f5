"""Envoy's counts so far, per cluster: answers of each worker, requests by route, durations, ejections.

The truth about a bundle is what its own workers answered (`endpoint` counters of `b-<hex12>`): every try counts there, even
one that was then repeated elsewhere. The aggregate `b-<hex12>.safe` is charged with what users got in the end, whichever bundle
answered. Counters are live; histograms are merged once a second.

What does not belong here: differences between two readings, and what they mean (`sources.envoy`).
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lastgood.layers.traffic.envoy import admin as envoy_admin
from lastgood.system import clock

PATTERN = (
    r"^cluster[.]b-[0-9a-f]{12}(-control)?([.]safe)?[.]"
    r"(endpoint[.].*[.]rq_(success|error)|upstream_rq_(time|timeout|completed)|outlier_detection[.]ejections_enforced_total)$"
)
"""The counters requested: some 2 kB per cluster, whatever else Envoy counts."""

KEPT_EJECTIONS = 1000
"""Number of ejections remembered per cluster; one is reason enough."""

_NAME = re.compile(r"cluster[.](?P<cluster>b-[0-9a-f]{12}(?:-control)?(?:[.]safe)?)[.](?P<rest>.*)")
_ENDPOINT = re.compile(r"endpoint[.](?P<place>.*)[.]rq_(?P<kind>success|error)")


@dataclasses.dataclass(frozen=True, slots=True)
class Bucket:
    """`count` requests that took at least `low` ms and less than `high` ms."""

    low: float
    high: float
    count: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One cluster's counts since it was created.

    `answers` maps a worker's address to (good, bad) tries. `completed` are requests that got an answer by this route, `timeouts` those
    that got none in time; the latter are missing in `times`.
    """

    answers: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    completed: int = 0
    timeouts: int = 0
    ejections: int = 0
    times: Sequence[Bucket] = ()


NOTHING = Cluster()


def read(admin: envoy_admin.Admin) -> dict[str, Cluster]:
    """The counts of each of our clusters, by name. One query, 1 to 3 ms. Raises Down."""
    return parse(admin.stats(PATTERN))


def parse(stats: Iterable[Mapping[str, Any]]) -> dict[str, Cluster]:
    """The same, from the entries of Envoy's answer; entries about other clusters are left out."""
    counts: dict[str, dict[str, Any]] = defaultdict(dict)
    for entry in stats:
        for histogram in entry.get("histograms", {}).get("details", []):
            _take(counts, histogram["name"], tuple(_bucket(found) for found in histogram["totals"]))
        if "value" in entry:
            _take(counts, entry["name"], entry["value"])
    return {name: Cluster(**fields) for name, fields in counts.items()}


def _take(counts: dict[str, dict[str, Any]], name: str, value: Any) -> None:
    found = _NAME.fullmatch(name)
    if not found:
        return
    fields, rest = counts[found["cluster"]], found["rest"]
    single = {
        "upstream_rq_completed": "completed",
        "upstream_rq_timeout": "timeouts",
        "upstream_rq_time": "times",
        "outlier_detection.ejections_enforced_total": "ejections",
    }
    if rest in single:
        fields[single[rest]] = value
    endpoint = _ENDPOINT.fullmatch(rest)
    if endpoint:
        good, bad = fields.setdefault("answers", {}).get(endpoint["place"], (0, 0))
        fields["answers"][endpoint["place"]] = (value, bad) if endpoint["kind"] == "success" else (good, value)


def _bucket(found: Mapping[str, Any]) -> Bucket:
    """Samples are truncated to whole milliseconds, so the sample 3, in a bucket 0.1 wide, stands for 3.0 to 4.0 ms."""
    low = float(found["lower_bound"])
    return Bucket(low, low + max(float(found["width"]), 1.0), int(found["count"]))


def over(buckets: Iterable[Bucket], limit_ms: float) -> float:
    """How many requests took longer than *limit_ms*; a bucket that it falls into is split in proportion, so this may be fractional."""
    return sum(bucket.count * min(1.0, max(0.0, (bucket.high - limit_ms) / (bucket.high - bucket.low))) for bucket in buckets)


def quantile(buckets: Iterable[Bucket], share: float, *, slower: int = 0) -> float | None:
    """The duration in ms that *share* of the requests did not exceed; None if there are none or it lies among the unmeasured.

    *slower* requests without a time rank after all others. Within a bucket durations count as spread evenly.
    """
    ordered = sorted(buckets, key=lambda bucket: bucket.low)
    rank = share * (sum(bucket.count for bucket in ordered) + slower)
    passed = 0
    for bucket in ordered:
        if bucket.count and passed + bucket.count >= rank:
            return bucket.low + (bucket.high - bucket.low) * max(rank - passed, 0.0) / bucket.count
        passed += bucket.count
    return None


class Ejections:
    """Envoy's own log of which workers it ejected and when, read continuously. Lost lines cost nothing but a count.

    Envoy uses the machine's clock. Times written since that clock was changed are corrected (`system.clock.of_machine`); a time that is
    still in the future comes from a wrong clock that is no longer known, and is ignored.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: dict[tuple[int, int], int] = {}
        self._times: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=KEPT_EJECTIONS))

    def count(self, cluster: str, *, since: float) -> int:
        """How often workers of *cluster* were ejected after *since* (Unix seconds). Raises OSError if the log cannot be read."""
        for path in (self._path.with_name(self._path.name + ".1"), self._path):
            self._go_on(path)
        return sum(moment > since for moment in self._times.get(cluster, ()))

    def _go_on(self, path: Path) -> None:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return
        with file:
            # A rotated log keeps its inode, so it is not read twice under its new name.
            status = os.fstat(file.fileno())
            begin = self._read.get((status.st_dev, status.st_ino), 0)
            file.seek(begin)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]  # the last line may still be incomplete
        self._read[status.st_dev, status.st_ino] = begin + len(whole)
        for line in whole.splitlines():
            self._note(line)

    def _note(self, line: bytes) -> None:
        try:
            event = json.loads(line)
            if event.get("action") == "EJECT" and event.get("enforced", False):
                moment = clock.of_machine(datetime.datetime.fromisoformat(event["timestamp"]).timestamp())
                if moment - clock.now() <= clock.MAX_SKEW_S:
                    self._times[event["cluster_name"]].append(moment)
        except (ValueError, KeyError, TypeError, AttributeError):
            return

"""What Envoy has counted so far, per cluster: answers of each worker, requests by route, times, ejections.

Truth about a bundle is what its own workers answered (`endpoint` counters of `b-<hex12>`): every try counts there, also
one that was then repeated elsewhere. The aggregate `b-<hex12>.safe` is charged with what users got in the end, whoever
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
"""What is asked for: some 2 kB for each cluster, whatever else Envoy counts."""

KEPT_EJECTIONS = 1000
"""Ejections remembered for each cluster; one is reason enough."""

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
    """One cluster's counts since it was made.

    `answers` maps a worker's address to (good, bad) tries. `completed` are requests that got an answer by this route,
    `timeouts` those that got none in time; they are missing in `times`.
    """

    answers: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    completed: int = 0
    timeouts: int = 0
    ejections: int = 0
    times: Sequence[Bucket] = ()


NOTHING = Cluster()


def read(admin: envoy_admin.Admin) -> dict[str, Cluster]:
    """The counts of every cluster of ours by name. One question, 1 to 3 ms. Raises Down."""
    return parse(admin.stats(PATTERN))


def parse(stats: Iterable[Mapping[str, Any]]) -> dict[str, Cluster]:
    """The same, from the entries of Envoy's answer; what is not about one of our clusters is left out."""
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
    """Samples are cut to whole milliseconds, so the sample 3, in a bucket 0.1 wide, stands for 3.0 to 4.0 ms."""
    low = float(found["lower_bound"])
    return Bucket(low, low + max(float(found["width"]), 1.0), int(found["count"]))


def over(buckets: Iterable[Bucket], limit_ms: float) -> float:
    """How many requests took longer than *limit_ms*; a bucket that it cuts is split in proportion, so this need not be a whole number."""
    return sum(bucket.count * min(1.0, max(0.0, (bucket.high - limit_ms) / (bucket.high - bucket.low))) for bucket in buckets)


def quantile(buckets: Iterable[Bucket], share: float, *, slower: int = 0) -> float | None:
    """The time in ms that *share* of the requests did not exceed; None if there are none or it lies among the unmeasured.

    *slower* requests without a time come after all others. Within a bucket times count as spread evenly.
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
    """Envoy's own log of whom it put out and when, read on from where it was read last. Lost lines cost nothing but a count.

    Envoy goes by the machine's clock. What was written since somebody set that is put right (`system.clock.of_machine`); a time that is
    still in the future then comes from a wrong clock that is no longer known, and counts for nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: dict[tuple[int, int], int] = {}
        self._times: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=KEPT_EJECTIONS))

    def count(self, cluster: str, *, since: float) -> int:
        """How often workers of *cluster* were put out after *since* (Unix seconds). Raises OSError if the log cannot be read."""
        for path in (self._path.with_name(self._path.name + ".1"), self._path):
            self._go_on(path)
        return sum(moment > since for moment in self._times.get(cluster, ()))

    def _go_on(self, path: Path) -> None:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return
        with file:
            # A log that was put aside keeps its inode, so it is not read twice under its new name.
            status = os.fstat(file.fileno())
            begin = self._read.get((status.st_dev, status.st_ino), 0)
            file.seek(begin)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]  # the last line may still be being written
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

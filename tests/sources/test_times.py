"""The arithmetic of Envoy's histograms, and of differences between two readings."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastgood.layers.traffic.envoy import requests as envoy_requests
from lastgood.layers.traffic.envoy import stats as envoy_stats
from lastgood.layers.traffic.envoy.stats import Bucket, Cluster
from lastgood.service import gates
from lastgood.sources import base
from lastgood.sources import envoy as source_
from tests.layers.traffic.world import A, B

ROUTE = f"b-{B.id.removeprefix('sha256:')[:12]}"
NO_LINES = envoy_requests.Batch(requests=(), end=envoy_requests.BEGINNING)


def histogram(samples_ms: list[float]) -> tuple[Bucket, ...]:
    """Envoy's buckets of times in ms: cut to whole milliseconds, then to two significant digits."""
    counts: dict[tuple[float, float], int] = {}
    for sample in samples_ms:
        whole = math.floor(sample)
        width = 10 ** (len(str(whole)) - 2) if whole else 0
        low = math.floor(whole / width) * width if width >= 1 else whole
        key = (float(low), float(low) + max(width, 1.0))
        counts[key] = counts.get(key, 0) + 1
    return tuple(Bucket(low, high, count) for (low, high), count in sorted(counts.items()))


@given(st.lists(st.floats(0, 5000), min_size=1, max_size=300), st.sampled_from([1.0, 7.0, 40.0, 100.0, 250.0, 900.0]))
def test_a_ceiling_at_the_edge_of_a_bucket_is_counted_exactly(samples: list[float], limit_ms: float) -> None:
    """Where no bucket is cut, the share over the ceiling is the true one."""
    assert envoy_stats.over(histogram(samples), limit_ms) == sum(sample >= limit_ms for sample in samples)


def test_a_bucket_that_is_cut_is_split_in_proportion() -> None:
    """Of 100 requests between 120 and 130 ms a ceiling of 123 leaves 70 above."""
    assert envoy_stats.over([Bucket(120, 130, 100), Bucket(10, 11, 5)], 123) == pytest.approx(70)


@given(st.lists(st.floats(0, 5000), min_size=50, max_size=400))
def test_a_percentile_is_as_exact_as_its_bucket(samples: list[float]) -> None:
    """P99 lies within a bucket's width, a tenth or 1 ms, of the sample that it stands for."""
    true = sorted(samples)[math.ceil(0.99 * len(samples)) - 1]
    found = envoy_stats.quantile(histogram(samples), 0.99)
    assert found is not None
    assert abs(found - true) <= max(1.0, true * 0.1) + 1e-9


def test_a_percentile_among_unmeasured_requests_is_unknown() -> None:
    """If more than one in a hundred timed out, P99 is beyond all that was measured."""
    assert envoy_stats.quantile([Bucket(5, 6, 98)], 0.99, slower=2) is None
    assert envoy_stats.quantile([], 0.99) is None


def seen(clusters: dict[str, Cluster], cursor: base.Cursor, *, max_ms: float) -> base.SourceReading:
    """One step of the latency gate without an Envoy."""
    gate = gates.LatencyP99(metric="latency_p99", max_ms=max_ms)
    asked = base.MeasurementRequest(gate=gate, watched=B.id, beside=None, mirrored=True)
    return source_._counted(asked, clusters, NO_LINES, now=1.0, before=cursor)


def test_fractions_of_requests_add_up() -> None:
    """One request a second in a bucket of which 30 % lies over the ceiling: after 1,000 seconds 300 were slow, not 0 and not 1,000."""
    cursor = seen({f"{ROUTE}": Cluster(times=(Bucket(120, 130, 0),))}, {}, max_ms=127).cursor
    bad = 0
    for count in range(1, 1001):
        answer = seen({f"{ROUTE}": Cluster(times=(Bucket(120, 130, count),))}, cursor, max_ms=127)
        cursor = answer.cursor
        assert answer.observations[0].watched.n == 1
        bad += answer.observations[0].watched.bad
    assert abs(bad - 300) <= 1


def test_a_histogram_that_went_back_counts_from_zero() -> None:
    """After a restart the new histogram is the difference."""
    cursor = seen({f"{ROUTE}": Cluster(times=(Bucket(1, 2, 500), Bucket(3, 4, 20)), timeouts=7)}, {}, max_ms=3).cursor
    after = seen({f"{ROUTE}": Cluster(times=(Bucket(1, 2, 10), Bucket(3, 4, 30)), timeouts=1)}, cursor, max_ms=3)
    assert (after.observations[0].watched.n, after.observations[0].watched.bad) == (41, 31)


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.booleans()), min_size=1, max_size=30), st.randoms(use_true_random=False)
)
def test_no_copy_is_counted_twice(steps: list[tuple[int, int, bool]], chance: random.Random) -> None:
    """Whatever workers come, go and begin anew between looks, each copy since the first look counts at most once."""
    asked = base.MeasurementRequest(gate=gates.ErrorRate(metric="error_rate"), watched=B.id, beside=A.id, mirrored=True)
    counters: dict[str, list[int]] = {"w1": [100, 10]}
    cursor = source_._counted(asked, {ROUTE: _cluster(counters)}, NO_LINES, now=0.0, before={}).cursor
    made = [0, 0]
    counted = [0, 0]
    for good, bad, anew in steps:
        place = f"w{chance.randint(1, 3)}"
        if anew or place not in counters:
            counters[place] = [0, 0]
        counters[place][0] += good
        counters[place][1] += bad
        made = [made[0] + good, made[1] + bad]
        answer = source_._counted(asked, {ROUTE: _cluster(counters)}, NO_LINES, now=0.0, before=cursor)
        cursor = answer.cursor
        (one,) = answer.observations
        counted = [counted[0] + one.watched.n - one.watched.bad, counted[1] + one.watched.bad]
        assert 0 <= one.watched.bad <= one.watched.n
    assert sum(counted) <= sum(made)
    if not any(anew for *_, anew in steps):
        assert counted == made


def _cluster(counters: dict[str, list[int]]) -> Cluster:
    return Cluster(answers={place: (good, bad) for place, (good, bad) in counters.items()})


def test_strangers_in_the_statistics_are_left_out() -> None:
    """Clusters of somebody else, and counters that were not asked for, are no counts of ours."""
    stats: list[dict[str, Any]] = [
        {"name": "cluster.other.upstream_rq_completed", "value": 5},
        {"name": f"cluster.{ROUTE}.upstream_cx_total", "value": 5},
        {"name": f"cluster.{ROUTE}.endpoint.[::1]_80.rq_success", "value": 3},
        {"name": f"cluster.{ROUTE}.endpoint.[::1]_80.rq_error", "value": 1},
        {"name": f"cluster.{ROUTE}.safe.upstream_rq_completed", "value": 4},
    ]
    found = envoy_stats.parse(stats)
    assert found[ROUTE].answers == {"[::1]_80": (3, 1)}
    assert found[f"{ROUTE}.safe"].completed == 4
    assert set(found) == {ROUTE, f"{ROUTE}.safe"}


def test_the_cursor_is_small() -> None:
    """A minute of traffic over all times that there are makes a cursor of less than 4 kB."""
    samples = [random.Random(1).lognormvariate(4, 2) for _ in range(5000)]
    cursor = seen({f"{ROUTE}": Cluster(times=histogram(samples))}, {}, max_ms=100).cursor
    assert len(str(cursor)) < 4096

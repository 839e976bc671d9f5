"""Nothing is lost and nothing is mixed while traffic moves, and when workers die; through a real Envoy under load."""

from __future__ import annotations

import bisect
import os
import threading
import time
from concurrent import futures

import pytest

from lastgood.layers import base
from lastgood.layers.traffic.envoy import layer as envoy
from tests.layers.traffic.world import A, B, C, Upstream, World, load, until

BUDGET = float(os.environ.get("LASTGOOD_TEST_BUDGET", "1"))
FLIPS = max(20, int(200 * BUDGET))


def test_many_flips_lose_no_request_and_never_go_back(world: World) -> None:
    """200 flips under 8 kept-alive connections.

    No request fails; on each connection the revision never decreases; a request sent after an apply has returned is
    answered by that revision or a later one; every answer comes from the bundle of its revision.
    """
    world.serve(A, B)
    world.start()
    layer = world.layer()
    layer.apply(world.desired(1, A, previous=B))
    acknowledged, done_at = [1], [0.0]
    with load(world.port) as running:
        for revision in range(2, FLIPS + 2):
            stable, previous = (A, B) if revision % 2 else (B, A)
            wanted = world.desired(revision, stable, previous=previous)
            layer.apply(wanted)
            acknowledged.append(revision)
            done_at.append(time.monotonic())
            seen = running.count()
            until(lambda seen=seen: running.count() > seen, what="an answer between two flips")  # type: ignore[misc]
    assert running.failed == []
    expected = {revision: (A if revision % 2 else B).id for revision in range(1, FLIPS + 2)}
    for shots in running.shots:
        revisions = [shot.revision for shot in shots]
        assert revisions == sorted(revisions)
        assert [shot for shot in shots if shot.bundle != expected[shot.revision]] == []
        late = [shot for shot in shots if shot.revision < acknowledged[bisect.bisect_left(done_at, shot.sent) - 1]]
        assert late == []


def test_previous_answers_when_the_only_worker_of_stable_dies(world: World) -> None:
    """Stable's worker is killed under load, no control plane acts: previous answers, no request fails."""
    world.serve(A, B)
    world.start()
    world.layer().apply(world.desired(3, B, previous=A))
    with load(world.port) as running:
        until(lambda: world.get().bundle == B.id, what="stable answers")
        world.upstreams[B.id].crash()
        until(lambda: all(shots[-1].bundle == A.id for shots in running.shots), what="previous answers everywhere")
        more = running.count() + 200
        until(lambda: running.count() >= more, what="200 more requests")
    assert running.failed == []
    assert world.get().headers["x-lastgood-bundle"] == A.id


def test_requests_in_flight_end_where_they_began(world: World) -> None:
    """A slow request that began before a rollback is answered by the bundle that had it, whose clusters have gone meanwhile."""
    world.serve(A, B)
    world.start()
    layer = world.layer()
    layer.apply(world.desired(3, B, previous=A))
    with futures.ThreadPoolExecutor(1) as pool:
        slow = pool.submit(world.get, "/slow")
        until(lambda: "/slow" in world.upstreams[B.id].requests, what="the slow request is with B")
        del world.ready[B.id]
        for revision in (4, 5, 6):
            layer.apply(world.desired(revision, A))
        assert world.get().bundle == A.id
        assert set(layer.observe().facts["clusters"]) == {"b-" + A.id[7:19], "b-" + A.id[7:19] + ".safe"}
        world.upstreams[B.id].release.set()
        reply = slow.result(15)
    assert (reply.status, reply.bundle, reply.revision) == (200, B.id, 3)


def test_a_failing_bundle_in_flight_can_still_fall_back_after_the_flip(world: World) -> None:
    """The worker that is left behind dies with a request in hand: the retry finds its fallback, the caller gets an answer."""
    world.serve(A, B)
    world.start()
    world.service = world.configured(per_try_timeout_s=5)
    layer = world.layer()
    layer.apply(world.desired(3, B, previous=A))
    world.upstreams[A.id].release.set()
    with futures.ThreadPoolExecutor(1) as pool:
        slow = pool.submit(world.get, "/slow")
        until(lambda: "/slow" in world.upstreams[B.id].requests, what="the slow request is with B")
        layer.apply(world.desired(4, A))
        world.upstreams[B.id].crash()
        reply = slow.result(15)
    assert (reply.status, reply.bundle) == (200, A.id)


def test_a_rollback_does_not_wait_for_a_release_that_hangs(world: World) -> None:
    """A release waits for a worker that never passes the health check; a newer revision goes past it, and stays."""
    world.serve(A)
    world.start()
    world.layer().apply(world.desired(1, A))
    dead = Upstream(C.id)
    dead.crash()
    world.ready[C.id] = (dead.endpoint,)
    with futures.ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(world.layer().apply, world.desired(2, C, previous=A))
        layer = world.layer()
        until(lambda: f"b-{C.id[7:19]}" in layer.observe().facts["clusters"], what="the release has made its cluster")
        layer.apply(world.desired(3, A))
        assert not hanging.done()
        assert (world.get().bundle, world.get().revision) == (A.id, 3)
        hanging.result(30)
    assert (world.get().bundle, world.get().revision) == (A.id, 3)


def test_without_a_ready_worker_traffic_does_not_move(world: World) -> None:
    """No worker at all, and a worker that does not answer: LayerError says so, the old bundle keeps serving."""
    world.serve(A)
    world.start()
    layer = world.layer()
    layer.apply(world.desired(1, A))
    with pytest.raises(base.LayerError, match="no ready worker for b-"):
        layer.apply(world.desired(2, B, previous=A))
    assert (world.get().bundle, world.get().revision) == (A.id, 1)


def test_a_dead_infrastructure_layer_does_not_keep_traffic_from_going_back(world: World) -> None:
    """Nobody can say which workers are ready: a bundle with healthy workers in Envoy is gone back to, a new one is not tried."""
    world.serve(A, B)
    world.start()
    world.layer().apply(world.desired(3, B, previous=A))

    def broken() -> dict[str, tuple[base.Endpoint, ...]]:
        raise base.LayerError("no record can be read; look at the disk")

    layer = envoy.build(world.settings, "echo", broken)
    wanted = world.desired(4, A)
    layer.apply(wanted)
    assert layer.verify(wanted, layer.observe()) is True
    assert (world.get().bundle, world.get().revision) == (A.id, 4)
    with pytest.raises(base.LayerError, match="no ready worker"):
        layer.apply(world.desired(5, C))
    assert world.get().revision == 4


def test_a_worker_of_another_bundle_is_not_taken_for_this_one(world: World) -> None:
    """The port of a bundle's worker now belongs to another bundle's: it passes for alive, yet traffic does not move to it."""
    world.serve(A, B)
    world.start()
    layer = world.layer()
    layer.apply(world.desired(1, A))
    world.ready[C.id] = world.ready[B.id]
    with futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(world.layer().apply, world.desired(2, C, previous=A))
        name = f"b-{C.id[7:19]}"
        until(lambda: name in layer.observe().facts["clusters"], what="the cluster is there")
        assert [host["healthy"] for host in layer.observe().facts["clusters"][name]["hosts"]] == [False]
        layer.apply(world.desired(3, A))
        waiting.result(30)
    assert (world.get().bundle, world.get().revision) == (A.id, 3)


def test_a_worker_at_a_new_address_is_followed(world: World) -> None:
    """The worker was replaced: verify says no until the same revision is applied again; no request fails meanwhile."""
    world.serve(A)
    world.start()
    wanted = world.desired(1, A)
    layer = world.layer()
    layer.apply(wanted)
    with load(world.port, connections=2) as running:
        replaced = Upstream(A.id)
        world.ready[A.id] = (replaced.endpoint,)
        assert world.layer().verify(wanted, layer.observe()) is False
        layer.apply(wanted)
        until(lambda: "/" in replaced.requests, what="the new worker gets requests")
        until(lambda: layer.verify(wanted, layer.observe()), what="the layer agrees")
        world.upstreams[A.id].crash()
        more = running.count() + 50
        until(lambda: running.count() >= more, what="50 more requests")
    replaced.crash()
    assert running.failed == []


def test_several_processes_may_apply_at_once(world: World) -> None:
    """Eight appliers race with different revisions: the highest is served in the end, whatever the order."""
    world.serve(A, B)
    world.start()
    start = threading.Barrier(8)

    def race(revision: int) -> None:
        layer = world.layer()
        start.wait()
        layer.apply(world.desired(revision, A if revision % 2 else B))
        layer.close()

    with futures.ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(race, revision) for revision in (5, 2, 7, 1, 8, 3, 6, 4)]:
            done.result(60)
    assert (world.get().bundle, world.get().revision) == (B.id, 8)
    assert envoy.running(world.settings, "echo") is not None

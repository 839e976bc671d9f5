"""Time limits, bodies and repeats with the real Envoy: what service.yaml says is what happens."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from lastgood.layers.traffic.envoy import bootstrap as envoy_bootstrap
from lastgood.layers.traffic.envoy import config as envoy_config
from lastgood.layers.traffic.envoy import drain as envoy_drain
from lastgood.layers.traffic.envoy import files as envoy_files
from lastgood.layers.traffic.envoy import layer as envoy
from lastgood.service import schema, timeouts
from tests.layers.traffic.world import SERVICE, A, B, C, Reply, World, until

MIB = 1024 * 1024
ONCE = sorted(tier for tier, waits in timeouts.DEFAULTS.items() if not waits.idempotent)


def configured(world: World, *, tier: str = "real-time-api", serving: dict[str, Any] | None = None, **traffic: Any) -> schema.Service:
    """A service of *tier* with nothing but what is named."""
    value = {"schema": schema.SCHEMA, "service": SERVICE, "tier": tier, "owner": "tests", "serving": serving or {}}
    return schema.Service.model_validate({**value, "traffic": {"port": world.port, **traffic}})


def serve(world: World, revision: int, service: schema.Service, **more: Any) -> None:
    """Let Envoy follow: A is stable, B previous, unless *more* says otherwise."""
    layer = world.layer()
    layer.apply(world.desired(revision, more.pop("stable", A), service=service, **{"previous": B, **more}))
    layer.close()


class Asked:
    """One request under way in a thread of its own."""

    def __init__(self, world: World, path: str) -> None:
        self.reply: Reply | None = None
        self._thread = threading.Thread(target=lambda: setattr(self, "reply", world.get(path)), daemon=True)
        self._thread.start()

    def end(self) -> Reply:
        self._thread.join(30)
        assert self.reply is not None
        return self.reply


def test_the_time_for_an_answer_is_the_one_that_is_set(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Envoy ends what is silent for a minute, here for a second; a request that may take longer is answered all the same."""
    manager = envoy_bootstrap._manager
    monkeypatch.setattr(envoy_bootstrap, "_manager", lambda routes: {**manager(routes), "stream_idle_timeout": "1s"})
    world.serve(A, B)
    world.start()
    serve(world, 1, configured(world, timeout_s=8, per_try_timeout_s=8))
    assert world.get("/wait/3000").status == 200


@pytest.mark.parametrize("tier", sorted(timeouts.DEFAULTS))
def test_the_longest_time_is_told_to_envoy_in_every_tier(world: World, tier: str) -> None:
    """Whatever the tier, a request may take as long as service.yaml accepts, and be as silent; one try too, where there is only one."""
    world.serve(A)
    desired = world.desired(1, A, service=configured(world, tier=tier, timeout_s=timeouts.LONGEST_S))
    plan = envoy_config.plan(desired, ready=world.ready, now={}, token="t")  # no secret
    actions = [rule["route"] for rule in plan.routes["resources"][0]["virtual_hosts"][0]["routes"] if "route" in rule]
    assert len(actions) >= 2
    for action in actions:
        assert action["timeout"] == "600s"
        assert float(action["idle_timeout"].rstrip("s")) > timeouts.LONGEST_S
    again = actions[-1]["retry_policy"]
    assert ("5xx" in again["retry_on"]) is timeouts.DEFAULTS[tier].idempotent  # type: ignore[index]  # the parameter is a tier
    assert again.get("per_try_timeout") == ("360s" if timeouts.DEFAULTS[tier].idempotent else None)  # type: ignore[index]
    assert envoy_drain.longest_s(plan.routes) == timeouts.LONGEST_S


@pytest.mark.parametrize("tier", ONCE)
def test_what_costs_or_acts_is_done_once(world: World, tier: str) -> None:
    """Out of the box a failed answer of such a tier, or one that takes as long as a slow model, is asked for once, of nobody else."""
    world.serve(A, B)
    world.start()
    serve(world, 1, configured(world, tier=tier))
    assert world.get("/fail").status == 500
    assert world.get("/wait/3500").status == 200
    assert (world.upstreams[A.id].requests, world.upstreams[B.id].requests) == (["/fail", "/wait/3500"], [])


def test_a_slow_model_of_the_online_tier_is_answered_with_its_first_try(world: World) -> None:
    """Out of the box an answer of a second and a half, and one of two and a half, comes from the worker that was asked first, once."""
    world.serve(A, B)
    world.start()
    serve(world, 1, configured(world))
    assert [world.get(path).status for path in ("/wait/1500", "/wait/2500")] == [200, 200]
    assert (world.upstreams[A.id].requests, world.upstreams[B.id].requests) == (["/wait/1500", "/wait/2500"], [])


def test_a_worker_that_dies_costs_its_requests_and_they_are_not_done_again(world: World) -> None:
    """Of a service that must not be asked twice, what was under way at a worker that dies fails; its previous bundle never sees it."""
    world.serve(A, B)
    world.start()
    serve(world, 1, configured(world, tier="multi-step-agent"))
    asked = Asked(world, "/slow")
    until(lambda: world.upstreams[A.id].requests == ["/slow"], what="the request at its worker")
    world.upstreams[A.id].crash()
    assert asked.end().status == 503
    assert world.upstreams[B.id].requests == []


def test_a_request_outlives_the_cluster_that_it_is_in(world: World) -> None:
    """Two changes later nothing routes to the bundle any more and its cluster is gone; the request that it has is answered by it, once."""
    world.serve(A, B, C)
    world.start()
    service = configured(world, timeout_s=20, per_try_timeout_s=20)
    serve(world, 1, service)
    asked = Asked(world, "/slow")
    until(lambda: world.upstreams[A.id].requests == ["/slow"], what="the request at its worker")
    for revision, stable in ((2, B), (3, C), (4, B)):
        serve(world, revision, service, stable=stable, previous=None)
    assert envoy_config.cluster_name(A.id) not in envoy_files.files_of_service(world.settings, SERVICE).read_clusters()
    world.upstreams[A.id].release.set()
    assert (asked.end().status, asked.end().bundle) == (200, A.id)
    assert [world.upstreams[one.id].requests for one in (A, B, C)] == [["/slow"], [], []]


def test_the_largest_body_is_asked_again_and_copied_whole(world: World) -> None:
    """Envoy keeps a mebibyte of a request by itself; one of the largest size is still asked again elsewhere, and copied."""
    largest = largest_body()
    world.serve(A, B, C)
    world.start()
    service = configured(world, serving={"max_body_bytes": largest}, timeout_s=20, per_try_timeout_s=20)
    serve(world, 1, service, mirror=(C.id, 100.0), candidate=C)
    world.upstreams[A.id].failing = True
    reply = world.get("/predict", method="POST", body=b"x" * largest)
    assert (reply.status, reply.bundle) == (200, B.id)
    assert reply.body["headers"]["content-length"] == str(largest)
    until(lambda: world.upstreams[C.id].seen, what="the copy")
    assert world.upstreams[C.id].seen[0]["content-length"] == str(largest)


def test_down_waits_for_what_is_under_way_and_says_what_it_cut_off(world: World) -> None:
    """A request that is under way gets its answer before Envoy ends, and nobody new gets in; one that takes too long is counted."""
    world.serve(A, B)
    world.start()
    serve(world, 1, configured(world, timeout_s=20, per_try_timeout_s=20))
    asked = Asked(world, "/slow")
    until(lambda: world.upstreams[A.id].requests == ["/slow"], what="the request at its worker")
    threading.Timer(1.0, world.upstreams[A.id].release.set).start()
    layer = world.layer()
    assert layer.shut_down() == ""
    assert asked.end().status == 200
    assert envoy.running(world.settings, SERVICE) is None
    layer.close()
    assert envoy_drain.cut_off_sentence(2) == "2 requests had no answer in time and were cut off"
    assert "is unknown" in envoy_drain.cut_off_sentence(None)


def largest_body() -> int:
    """The largest `max_body_bytes` that service.yaml accepts."""
    (limit,) = (one.le for one in schema.Serving.model_fields["max_body_bytes"].metadata if hasattr(one, "le"))
    return int(limit)

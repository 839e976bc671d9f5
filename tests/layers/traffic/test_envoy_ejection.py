"""What Envoy does by itself with a bad candidate, with nobody else alive, and that chance alone never does it."""

from __future__ import annotations

import http.client
import math
import threading
import time

import pytest

from lastgood.layers.traffic.envoy import config as envoy_config
from tests.layers.traffic.world import A, B, Upstream, World, ask, until

HOUR_S = 3600


def tail(n: int, least: int, rate: float) -> float:
    """Chance that *least* or more of *n* requests fail."""
    return math.fsum(math.comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(least, n + 1))


def test_a_healthy_candidate_is_not_put_out_by_chance() -> None:
    """With 1 % errors: less than one ejection in a million hours, however many requests there are in a second."""
    rules = envoy_config._ejection(trial=True)
    share, volume = rules["failure_percentage_threshold"] / 100, rules["failure_percentage_request_volume"]
    by_rate = max(tail(n, math.ceil(n * share - 1e-9), 0.01) for n in range(volume, 400)) * HOUR_S
    run = min(rules[name] for name in ("consecutive_5xx", "consecutive_gateway_failure", "consecutive_local_origin_failure"))
    in_a_row = 0.01**run * 10_000 * HOUR_S
    assert by_rate + in_a_row < 1e-6


@pytest.mark.parametrize(("rate", "least"), [(20, 0.65), (40, 0.9), (100, 0.98)])
def test_a_candidate_that_fails_half_is_put_out_soon(rate: int, least: float) -> None:
    """Any one whole second of Poisson traffic is enough in most cases, two in nearly all."""
    rules = envoy_config._ejection(trial=True)
    share, volume = rules["failure_percentage_threshold"] / 100, rules["failure_percentage_request_volume"]
    out, weight = 0.0, math.exp(-rate)
    for n in range(4 * rate):
        if n >= volume:
            out += weight * tail(n, math.ceil(n * share - 1e-9), 0.5)
        weight *= rate / (n + 1)
    assert out >= least
    assert 1 - (1 - out) ** 2 >= 0.85


class Alternating(Upstream):
    """A worker that fails every second request, so that no run of eight puts it out."""

    @property
    def failing(self) -> bool:
        return len(self.requests) % 2 == 0

    @failing.setter
    def failing(self, _: bool) -> None:
        pass


@pytest.fixture
def canary(world: World) -> World:
    """Stable with 80 % and a candidate with 20 %."""
    world.serve(A, B)
    world.start()
    world.layer().apply(world.desired(1, A, candidate=B, weights={B.id: 20.0, A.id: 80.0}))
    return world


def send(world: World, *, seconds: float, rate: float) -> list[int]:
    """Steady requests from four connections; the status of each answer."""
    found: list[int] = []

    def run() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=10)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found.append(ask(connection, "/").status)
            time.sleep(4 / rate)  # the pace is what is tested
        connection.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_a_candidate_that_fails_everything_is_out_and_no_user_sees_it(canary: World) -> None:
    """500 for every request of 20 % of the users, no control plane: eight tries later stable answers them all, with 200."""
    canary.upstreams[B.id].failing = True
    answers = {canary.get(x_user_id=f"user-{number}").status for number in range(300)}
    assert answers == {200}
    assert len(canary.upstreams[B.id].requests) == 8
    assert canary.layer().observe().facts["ejected"] == [f"127.0.0.1:{canary.upstreams[B.id].endpoint.port}"]


def test_a_candidate_that_fails_half_is_out_within_seconds(canary: World) -> None:
    """Every second request fails at about 40 requests a second: out after some seconds, and every user got a 200."""
    canary.upstreams[B.id].__class__ = Alternating
    assert set(send(canary, seconds=4, rate=200)) == {200}
    until(lambda: canary.layer().observe().facts["ejected"], what="the candidate is out")


def test_a_candidate_with_a_few_errors_stays(canary: World) -> None:
    """One request in twelve fails, far more than healthy, and evenly: that is for the gates to judge, not for Envoy."""
    upstream = canary.upstreams[B.id]
    served = 0
    while served < 120:
        upstream.failing = served % 12 == 11
        canary.get()
        served = len(upstream.requests)
    assert canary.layer().observe().facts["ejected"] == []
    assert canary.get().status == 200


@pytest.mark.parametrize("rescued", [True, False])
def test_rows_that_cannot_be_computed_put_nobody_out(canary: World, *, rescued: bool) -> None:
    """Eighty in a row on the candidate: where the fallback can compute them its users get an answer, else it is their own affair; it stays."""
    stable, candidate = canary.upstreams[A.id], canary.upstreams[B.id]
    candidate.poisoned, stable.poisoned = True, not rescued
    user = next(name for name in map(str, range(1000)) if canary.get(x_user_id=name).bundle == B.id)
    for _ in range(80):
        answer = canary.get("/poison", x_user_id=user)
        assert (answer.status, answer.bundle if rescued else "") == ((200, A.id) if rescued else (422, ""))
    assert candidate.requests.count("/poison") >= 80
    assert canary.get(x_user_id=user).bundle == B.id

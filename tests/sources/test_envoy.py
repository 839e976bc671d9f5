"""The proxy as a source, on a real Envoy."""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from lastgood import arms, conditions, daemon
from lastgood.gates.base import Observation
from lastgood.layers.traffic import envoy_files, envoy_stats
from lastgood.sources import envoy as source_
from tests import timing
from tests.layers.traffic.world import SERVICE, A, B, C, Upstream, World, until
from tests.sources.looking import Looker

ERRORS = conditions.ErrorRate(metric="error_rate")
SPLIT = conditions.SampleRatio(metric="sample_ratio")
EJECTIONS = conditions.Ejections(metric="ejections")


@pytest.fixture
def source(world: World) -> Iterator[source_.EnvoySource]:
    """The source of a service where A is stable and B a candidate that answers half of the requests."""
    world.serve(A, B)
    world.start()
    split(world, 1)
    made = source_.EnvoySource(world.settings, SERVICE)
    yield made
    made.close()


def split(world: World, revision: int, **more: Any) -> None:
    """Half of the requests to each, unless *more* says otherwise."""
    world.layer().apply(world.desired(revision, A, candidate=B, **{"weights": {B.id: 50.0, A.id: 50.0}, **more}))


def latency(max_ms: float) -> conditions.LatencyP99:
    """The gate with that ceiling."""
    return conditions.LatencyP99(metric="latency_p99", max_ms=max_ms)


def served(world: World, bundle_id: str) -> int:
    """Requests that the worker of a bundle has got."""
    return len(world.upstreams[bundle_id].requests)


def test_errors_count_where_they_are_made(world: World, source: source_.EnvoySource) -> None:
    """The candidate fails, stable answers for it: users see no error, the candidate's tries are bad, stable's are not."""
    looker = Looker(source, ERRORS, B.id, A.id, share=0.5)
    assert looker.look() == []
    assert {world.get().status for _ in range(20)} == {200}
    world.upstreams[B.id].failing = True
    before = served(world, B.id), served(world, A.id)
    assert {world.get().status for _ in range(8)} == {200}
    seen = looker.one()
    failed, fallen_back = served(world, B.id) - before[0], served(world, A.id) - before[1]
    assert failed > 0
    assert fallen_back == 8
    assert (seen.watched.n, seen.watched.bad) == (served(world, B.id), failed)
    assert seen.beside is not None
    assert (seen.beside.n, seen.beside.bad) == (served(world, A.id), 0)
    assert seen.share == 0.5
    assert looker.one().watched.n == 0


def test_an_answer_that_does_not_come_is_an_error(world: World, source: source_.EnvoySource) -> None:
    """A worker that hangs is cut off after the limit of a try; that try is bad."""
    split(world, 2, service=world.configured(per_try_timeout_s=0.1, timeout_s=0.15), weights={B.id: 99.9, A.id: 0.1})
    looker = Looker(source, ERRORS, B.id, A.id)
    looker.look()
    assert world.get("/slow").status == 504
    assert looker.one().watched.bad >= 1


def test_health_checks_are_not_counted(world: World, source: source_.EnvoySource) -> None:
    """Envoy asks every worker for its health every two seconds; no gate may take that for traffic."""
    looker = Looker(source, ERRORS, A.id, B.id)
    looker.look()
    checks = [0]
    world.upstreams[A.id].server.RequestHandlerClass.send_response = _counting(world, checks)  # type: ignore[method-assign]
    until(lambda: checks[0] >= 2, what="two health checks came")
    seen = looker.one()
    assert (seen.watched.n, seen.beside.n if seen.beside else None) == (0, 0)


def _counting(world: World, checks: list[int]) -> Any:
    handler = world.upstreams[A.id].server.RequestHandlerClass
    answer = handler.send_response

    def counted(self: Any, *args: Any) -> None:
        checks[0] += self.path == "/readyz"
        answer(self, *args)

    return counted


def test_the_first_look_counts_nothing(world: World, source: source_.EnvoySource) -> None:
    """What happened before anybody asked is not laid at a new analysis's door."""
    for _ in range(10):
        world.get()
    looker = Looker(source, ERRORS, B.id, A.id)
    assert looker.look() == []
    seen = looker.one()
    assert (seen.watched.n, seen.beside) == (0, seen.watched)


def test_copies_are_the_watched_arm_in_shadow(world: World, source: source_.EnvoySource) -> None:
    """Each copy counts once for the mirrored candidate, errors included; stable's answers count for stable alone."""
    split(world, 2, weights={A.id: 100.0}, mirror=(B.id, 100.0))
    errors_, times = (Looker(source, gate, B.id, A.id, mirrored=True) for gate in (ERRORS, latency(10_000)))
    errors_.look(0.5), times.look(0.5)
    for _ in range(15):
        world.get()
    until(lambda: served(world, B.id) == 15, what="all copies came")
    world.upstreams[B.id].failing = True
    for _ in range(5):
        assert world.get().status == 200
    until(lambda: served(world, B.id) == 20, what="all copies came")
    until(lambda: envoy_stats.read(world.layer()._admin)[_own(B.id)].answers.popitem()[1] == (15, 5), what="all copies are counted")
    seen = errors_.one()
    assert (seen.watched.n, seen.watched.bad) == (20, 5)
    assert seen.beside is not None
    assert (seen.beside.n, seen.beside.bad) == (20, 0)
    counted = _sum_until(times, 20)
    assert counted == [20, 0, 20, 0]


def _own(bundle_id: str) -> str:
    return f"b-{bundle_id.removeprefix('sha256:')[:12]}"


def _sum_until(looker: Looker, n: int) -> list[int]:
    """n and bad of both arms, summed over looks until the watched arm has *n*; Envoy merges times once a second."""
    sums = [0, 0, 0, 0]
    end = time.monotonic() + 10
    while sums[0] < n or (looker.asked.beside and sums[2] < n):
        assert time.monotonic() < end, sums
        seen = looker.one()
        beside = seen.beside or seen.watched
        for place, value in enumerate((seen.watched.n, seen.watched.bad, beside.n, beside.bad)):
            sums[place] += value
        time.sleep(0.05)  # Envoy's own flush, on its own clock
    return sums


def test_times_agree_with_what_a_client_measures(world: World, source: source_.EnvoySource) -> None:
    """Of 400 requests with known delays exactly the slower ones are over the ceiling, and P99 is what the client measured of those."""
    split(world, 2, weights={A.id: 100.0})
    looker = Looker(source, latency(100), A.id)
    looker.look()
    delays = [5] * 200 + [30] * 150 + [80] * 40 + [150] * 10
    measured: list[float] = []

    def one(delay: int) -> None:
        began = time.perf_counter()
        assert world.get(f"/wait/{delay}").status == 200
        measured.append((time.perf_counter() - began) * 1000)

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(one, delays))
    highest = 0.0
    n = bad = 0
    end = time.monotonic() + 10
    while n < len(delays):
        assert time.monotonic() < end
        seen = looker.one()
        n, bad = n + seen.watched.n, bad + seen.watched.bad
        highest = max(highest, seen.watched.value or 0.0)
        time.sleep(0.05)  # Envoy's own flush, on its own clock
    assert n == len(delays)
    assert bad == sum(delay >= 100 for delay in delays)
    assert 150 <= highest <= max(measured) * 1.07


def test_a_request_that_timed_out_was_slow(world: World, source: source_.EnvoySource) -> None:
    """Envoy keeps no time of a request that was never answered; it counts as slower than any ceiling."""
    split(world, 2, weights={A.id: 100.0}, service=world.configured(idempotent=False, timeout_s=0.2))
    looker = Looker(source, latency(60_000), A.id)
    looker.look()
    for path in ("/", "/", "/slow"):
        world.get(path)
    assert _sum_until(looker, 3)[:2] == [3, 1]


def test_the_split_is_counted_by_route(world: World, source: source_.EnvoySource) -> None:
    """Tries again, fallbacks and an ejected candidate do not look like a wrong split."""
    looker = Looker(source, SPLIT, B.id, A.id, share=0.5)
    looker.look()
    world.upstreams[B.id].failing = True
    for number in range(200):
        assert world.get(x_user_id=f"user-{number}").status == 200
    assert served(world, B.id) == 8  # then it was put out
    seen = looker.one()
    assert seen.beside is not None
    assert seen.watched.n + seen.beside.n == 200
    assert 70 <= seen.watched.n <= 130


def test_debug_requests_move_no_split(world: World, source: source_.EnvoySource) -> None:
    """A look by token is no user; it is an answer of the worker all the same."""
    token = envoy_files.debug_token(world.settings, make=False)
    lookers = [Looker(source, gate, B.id, A.id, share=0.5) for gate in (SPLIT, ERRORS)]
    for looker in lookers:
        looker.look(0.5)
    for _ in range(5):
        assert world.get(x_lastgood_debug_token=token, x_lastgood_bundle=B.id).bundle == B.id
    routed, answered = (looker.one(1.0) for looker in lookers)
    assert (routed.watched.n, answered.watched.n) == (0, 5)


def test_a_rebuilt_cluster_counts_from_zero(world: World, source: source_.EnvoySource) -> None:
    """A second worker rebuilds the candidate's cluster and with it the counters: what came after that counts, once."""
    looker = Looker(source, ERRORS, B.id, A.id)
    looker.look()
    for _ in range(30):
        world.get()
    assert looker.one().watched.n == served(world, B.id) > 5
    first = world.upstreams[B.id]
    world.serve(B)
    split(world, 2)
    before = len(first.requests)
    while len(first.requests) + served(world, B.id) - before < 4:
        world.get()
    seen = looker.one()
    assert (seen.watched.n, seen.watched.bad) == (4, 0)
    assert looker.one().watched.n == 0
    first.crash()


def test_a_new_envoy_counts_from_zero(world: World, source: source_.EnvoySource) -> None:
    """Envoy is killed: down while it is away, then on from where it begins anew, with the same cursor."""
    looker = Looker(source, ERRORS, B.id, A.id)
    looker.look()
    for _ in range(30):
        world.get()
    assert looker.one().watched.n == served(world, B.id)
    record = daemon.read(envoy_files.of(world.settings, SERVICE).record)
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    until(lambda: not daemon.alive(record), what="Envoy is gone")
    down = looker.one()
    assert down.down
    assert "does not answer" in down.detail
    split(world, 1)
    before = served(world, B.id)
    until(lambda: world.get().status == 200 and served(world, B.id) >= before + 2, what="the candidate answers again")
    assert looker.one().watched.n == served(world, B.id) - before


def test_an_envoy_that_hangs_is_down_in_time(world: World, source: source_.EnvoySource) -> None:
    """A stopped process: all gates of a look together wait less than two seconds."""
    lookers = [Looker(source, gate, B.id, A.id) for gate in (ERRORS, SPLIT, EJECTIONS, latency(100))]
    for looker in lookers:
        looker.look(0.5)
    record = daemon.read(envoy_files.of(world.settings, SERVICE).record)
    assert record is not None
    os.kill(record.pid, signal.SIGSTOP)
    try:
        moments = itertools.count(1.0)

        def look() -> list[bool]:
            at = next(moments)
            return [looker.one(at).down for looker in lookers]

        assert all(timing.soon(look, within_s=2.2))
    finally:
        os.kill(record.pid, signal.SIGCONT)
    assert not lookers[0].one(next(moments)).down


def test_one_look_is_one_question(world: World, source: source_.EnvoySource, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many gates there are, Envoy is asked once for each moment."""
    asked: list[object] = []
    read = envoy_stats.read
    monkeypatch.setattr(envoy_stats, "read", lambda admin: (asked.append(admin), read(admin))[1])
    lookers = [Looker(source, gate, B.id, A.id) for gate in (ERRORS, SPLIT, EJECTIONS, latency(50), latency(100))]
    for now in (1.0, 2.0):
        for looker in lookers:
            looker.look(now)
    assert len(asked) == 2


def test_a_bundle_without_a_cluster_has_no_traffic(world: World, source: source_.EnvoySource) -> None:
    """A bundle that Envoy was never told of: zero requests, which is neither an error nor a dead source."""
    looker = Looker(source, ERRORS, C.id, A.id)
    looker.look()
    seen = looker.one()
    assert (seen.watched.n, seen.down) == (0, False)


def test_an_ejection_is_seen_at_once_and_counted_once(world: World, source: source_.EnvoySource) -> None:
    """The counter knows it before the log has it on disk; when both have it, it is still one."""
    looker = Looker(source, EJECTIONS, B.id, A.id, since=time.time())
    assert looker.one().watched.value == 0
    world.upstreams[B.id].failing = True
    for _ in range(60):
        assert world.get().status == 200
    assert looker.one().watched.value == 1
    until(lambda: envoy_files.of(world.settings, SERVICE).ejections.stat().st_size > 0, what="the log is on disk")
    assert [looker.one().watched.value for _ in range(3)] == [1, 1, 1]
    assert looker.one().watched.n == 1


def test_an_ejection_that_nobody_watched_is_found_afterwards(world: World, source: source_.EnvoySource) -> None:
    """The controller was dead and Envoy has been restarted since: the log tells; an analysis that began later is not concerned."""
    began = time.time()
    world.upstreams[B.id].failing = True
    for _ in range(60):
        world.get()
    log = envoy_files.of(world.settings, SERVICE).ejections
    until(lambda: log.stat().st_size > 0, what="the log is on disk")
    record = daemon.read(envoy_files.of(world.settings, SERVICE).record)
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    until(lambda: not daemon.alive(record), what="Envoy is gone")
    split(world, 1)
    assert Looker(source, EJECTIONS, B.id, A.id, since=began).one().watched.value == 1
    assert Looker(source, EJECTIONS, B.id, A.id, since=time.time()).one().watched.value == 0
    assert Looker(source, EJECTIONS, A.id, since=began).one().watched.value == 0
    log.replace(log.with_name(log.name + ".1"))  # as the layer puts a long log aside
    again = Looker(source_.EnvoySource(world.settings, SERVICE), EJECTIONS, B.id, A.id, since=began)
    assert again.one().watched.value == 1
    again.source.close()
    assert Looker(source, EJECTIONS, B.id, A.id, since=began).one().watched.value == 1


def test_with_a_control_arm_only_its_workers_stand_beside(world: World, source: source_.EnvoySource) -> None:
    """Times and the split are those of the control arm; errors, which need no equal arms, those of all workers of stable."""
    control = arms.control_of(A.id)
    upstream = Upstream(A.id)
    world.upstreams[control] = upstream
    world.ready[control] = (upstream.endpoint,)
    split(world, 2, control=True, weights={B.id: 20.0, control: 20.0, A.id: 60.0})
    lookers = [Looker(source, gate, B.id, A.id, share=0.5, control=True) for gate in (ERRORS, SPLIT, latency(1000))]
    for looker in lookers:
        looker.look()
    answers = [world.get(x_user_id=f"user-{number}") for number in range(200)]
    by_arm = Counter(answer.body["headers"]["x-lastgood-arm"] for answer in answers)
    assert set(by_arm) == {"candidate", "control", "stable"}
    assert by_arm["control"] == served(world, control)
    for looker in lookers:
        found: list[Observation] = []
        wanted = by_arm["control"] + (by_arm["stable"] if looker.asked.gate is ERRORS else 0)
        until(lambda looker=looker, found=found, wanted=wanted: found.extend(looker.look()) or _beside(found) == wanted, what="counted")  # type: ignore[misc]
        assert sum(seen.watched.n for seen in found) == by_arm["candidate"]


def test_errors_are_still_compared_when_the_control_arm_is_gone(world: World, source: source_.EnvoySource) -> None:
    """Its users are answered by stable's own workers, and a candidate that fails meanwhile is no less to blame."""
    control = arms.control_of(A.id)
    upstream = Upstream(A.id)
    world.ready[control] = (upstream.endpoint,)
    split(world, 2, control=True, weights={B.id: 20.0, control: 20.0, A.id: 60.0})
    looker = Looker(source, ERRORS, B.id, A.id, share=0.5, control=True)
    looker.look()
    upstream.crash()
    del world.ready[control]
    world.upstreams[B.id].failing = True
    split(world, 3, control=True, weights={B.id: 20.0, control: 20.0, A.id: 60.0})
    answers = [world.get(x_user_id=f"user-{number}") for number in range(60)]
    assert {answer.status for answer in answers} == {200}
    seen = looker.one()
    assert seen.watched.bad > 0
    assert seen.beside is not None
    assert seen.beside.n >= 60


def _beside(found: list[Observation]) -> int:
    return sum(seen.beside.n for seen in found if seen.beside is not None)

"""The proxy as a source, on a real Envoy."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastgood.core import arms
from lastgood.gates.base import Observation, Tally
from lastgood.layers.traffic.envoy import files as envoy_files
from lastgood.layers.traffic.envoy import logs as envoy_logs
from lastgood.layers.traffic.envoy import stats as envoy_stats
from lastgood.service import gates
from lastgood.sources import envoy as source_
from lastgood.system import processes
from tests import timing
from tests.layers.traffic.world import SERVICE, A, B, C, Upstream, World, until
from tests.sources.looking import Looker

ERRORS = gates.ErrorRate(metric="error_rate")
SPLIT = gates.SampleRatio(metric="sample_ratio")
EJECTIONS = gates.Ejections(metric="ejections")


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


def latency(max_ms: float) -> gates.LatencyP99:
    """The gate with that ceiling."""
    return gates.LatencyP99(metric="latency_p99", max_ms=max_ms)


def logged(world: World) -> None:
    """Wait until Envoy has written the lines of all requests so far: they come in order, so of one more that counts nowhere."""
    log = envoy_files.files_of_service(world.settings, SERVICE).access_log
    before = _marks(log)
    world.get("/feedback", method="POST", body=b"{}")
    until(lambda: _marks(log) > before, what="the log is written")


def _marks(log: Path) -> int:
    return log.read_bytes().count(b'"path":"/feedback"') if log.exists() else 0


def served(world: World, bundle_id: str) -> int:
    """Requests that the worker of a bundle has got."""
    return sum(path != "/feedback" for path in world.upstreams[bundle_id].requests)


def test_errors_count_where_they_are_made(world: World, source: source_.EnvoySource) -> None:
    """The candidate fails, stable answers for it: its requests failed, stable's did not, and users saw no error."""
    looker = Looker(source, ERRORS, B.id, A.id, share=0.5)
    assert looker.look() == []
    assert {world.get().status for _ in range(20)} == {200}
    asked = served(world, B.id)
    world.upstreams[B.id].failing = True
    before = served(world, B.id), served(world, A.id)
    assert {world.get().status for _ in range(8)} == {200}
    failed, fallen_back = served(world, B.id) - before[0], served(world, A.id) - before[1]
    logged(world)
    seen = looker.one()
    assert failed > 0
    assert fallen_back == 8
    assert seen.watched == Tally(n=asked + failed, bad=failed, user_errors=0)
    assert seen.beside == Tally(n=28 - asked - failed, bad=0, user_errors=0)
    assert seen.share == 0.5
    assert looker.one().watched.n == 0


def test_an_answer_that_does_not_come_is_one_failure(world: World, source: source_.EnvoySource) -> None:
    """A worker that hangs is cut off after the limit of a try and asked again: one request, one failure, one error for its user."""
    split(world, 2, service=world.configured(per_try_timeout_s=0.1, timeout_s=0.15), weights={B.id: 99.9, A.id: 0.1})
    looker = Looker(source, ERRORS, B.id, A.id)
    looker.look()
    assert world.get("/slow").status == 504
    logged(world)
    assert looker.one().watched == Tally(n=1, bad=1, user_errors=1)


def test_a_request_counts_once_however_often_it_is_tried(world: World, source: source_.EnvoySource) -> None:
    """Stable's worker fails three times for one request, with nobody to fall back to: not 3 of 3, but 1 of 1."""
    split(world, 2, weights={A.id: 100.0})
    looker = Looker(source, ERRORS, A.id)
    looker.look()
    world.upstreams[A.id].failing = True
    assert world.get().status == 500
    assert served(world, A.id) == 3
    logged(world)
    assert looker.one().watched == Tally(n=1, bad=1, user_errors=1)


def test_a_flood_of_feedback_is_no_evidence(world: World, source: source_.EnvoySource) -> None:
    """Feedback and the worker's own pages count in no gate, however they are written; one request among them does."""
    lookers = [Looker(source, gate, B.id, A.id, share=0.5) for gate in (ERRORS, SPLIT, latency(10_000))]
    for looker in lookers:
        looker.look(0.5)
    for path in ("/feedback", "/feedback?x=1", "//feedback", "/feed%62ack", "/feedback/", "/healthz", "/openapi.json", "/docs"):
        for _ in range(3):
            world.get(path, method="POST", body=b"{}")
    world.get("/predict", method="POST", body=b"{}")
    logged(world)
    for looker in lookers:
        seen = looker.one(1.0)
        assert seen.beside is not None
        assert seen.watched.n + seen.beside.n == 1


def test_a_caller_that_hangs_up_is_no_failure(world: World, source: source_.EnvoySource) -> None:
    """Neither before nor after its request is whole; it was routed all the same. One that waited for longer than the ceiling was slow."""
    split(world, 2, weights={A.id: 100.0})
    lookers = [Looker(source, gate, A.id) for gate in (ERRORS, SPLIT, latency(50), latency(10_000))]
    for looker in lookers:
        looker.look(0.5)
    for request, wait_s in (
        (b"GET /wait/600 HTTP/1.1\r\nhost: x\r\n\r\n", 0.2),
        (b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab", 0.2),
    ):
        with socket.create_connection(("127.0.0.1", world.port)) as connection:
            connection.sendall(request)
            time.sleep(wait_s)  # as a caller that loses patience
    log = envoy_files.files_of_service(world.settings, SERVICE).access_log
    until(lambda: log.read_bytes().count(b'"flags":"DC"') == 2, what="both are in the log")
    assert [looker.one(1.0).watched.n for looker in lookers] == [0, 2, 1, 0]
    assert lookers[2].cursor is not None


def test_a_dead_worker_fails_what_was_sent_to_it(world: World, source: source_.EnvoySource) -> None:
    """Refused connections are failures of the arm until it is out of rotation; then stable answers, and nobody of the arm was asked."""
    split(world, 2, weights={B.id: 99.9, A.id: 0.1})
    looker = Looker(source, ERRORS, B.id, A.id)
    looker.look()
    world.upstreams[B.id].crash()
    assert {world.get().status for _ in range(40)} == {200}
    logged(world)
    seen = looker.one()
    assert 1 <= seen.watched.bad == seen.watched.n < 40
    assert seen.watched.user_errors == 0
    world.upstreams[A.id].crash()
    assert world.get().status == 503
    log = envoy_files.files_of_service(world.settings, SERVICE).access_log
    until(lambda: b'"code":503' in log.read_bytes(), what="it is in the log")
    assert looker.one().watched == Tally(n=1, bad=1, user_errors=1)


def test_copies_of_a_canary_count_apart_from_its_users(world: World, source: source_.EnvoySource) -> None:
    """A canary that is mirrored besides: users' requests make the rate, copies are counted beside them and judged by no gate."""
    split(world, 2, weights={B.id: 10.0, A.id: 90.0}, mirror=(B.id, 100.0))
    looker = Looker(source, ERRORS, B.id, A.id, copied=True)
    looker.look()
    answers = Counter(world.get(x_user_id=f"user-{number}").bundle for number in range(100))
    until(lambda: served(world, B.id) == 100 + answers[B.id], what="all copies came")
    found: list[Observation] = []
    until(lambda: (found.extend(looker.look()), sum(seen.watched.copies for seen in found))[1] >= 100, what="copies are counted")
    logged(world)
    found += looker.look()
    assert sum(seen.watched.n for seen in found) == answers[B.id]
    assert sum(seen.watched.copies for seen in found) == 100


def test_the_log_is_followed_over_rotations(world: World, source: source_.EnvoySource) -> None:
    """Put aside twice while requests come, with looks between and without: each request counts once."""
    files = envoy_files.files_of_service(world.settings, SERVICE)
    split(world, 2, weights={A.id: 100.0})
    looker = Looker(source, ERRORS, A.id)
    looker.look()
    sent = counted = 0
    for turn in range(4):
        for _ in range(7):
            sent += world.get().status == 200
        if turn % 2:
            counted += looker.one().watched.n
        logged(world)
        assert envoy_logs.put_aside(files, now=time.time(), full_bytes=1)
        until(files.access_log.exists, what="Envoy has opened a new one")
    for _ in range(5):
        sent += world.get().status == 200
    logged(world)
    again = source_.EnvoySource(world.settings, SERVICE)  # a controller that was started anew
    seen = again.read(looker.asked, now=99.0, cursor=looker.cursor)
    again.close()
    assert counted + seen.observations[0].watched.n == sent == 33


def test_a_log_that_cannot_be_read_is_down_and_says_why(world: World, source: source_.EnvoySource) -> None:
    """No file, a folder in its place, lines that are none: down with the reason, and the cursor stays for when it is mended."""
    files = envoy_files.files_of_service(world.settings, SERVICE)
    looker = Looker(source, ERRORS, B.id, A.id)
    looker.look()
    kept = looker.cursor
    whole = files.access_log.read_bytes()
    files.access_log.unlink()
    assert "writes no access log" in _down(looker)
    files.access_log.mkdir()
    assert "cannot be read" in _down(looker)
    files.access_log.rmdir()
    files.access_log.write_bytes(whole + b"nonsense\n" * 3)
    assert "no line" in _down(looker)
    assert looker.cursor == kept
    files.access_log.write_bytes(whole + line(B.id))
    assert looker.one().watched.n == 1


def test_a_proxy_that_answers_and_logs_nothing_is_down(world: World, source: source_.EnvoySource) -> None:
    """A full disk loses lines in silence: when answers are counted and none is written for seconds, nobody says that all is well."""
    looker = Looker(source, ERRORS, B.id, A.id)
    looker.look(1.0)
    log = envoy_files.files_of_service(world.settings, SERVICE).access_log
    held = log.with_name("held")
    log.rename(held)  # Envoy goes on writing there
    log.write_bytes(b"")
    for _ in range(3):
        world.get()
    assert not looker.one(2.0).down
    assert "writes nothing" in _down(looker, now=2.0 + source_.SILENT_S)
    until(lambda: held.read_bytes().count(b"\n") == 3, what="the lines are written")
    held.replace(log)
    seen = looker.one(20.0)
    assert seen.beside is not None
    assert seen.watched.n + seen.beside.n == 3


def test_a_cursor_of_an_older_release_is_begun_anew(world: World, source: source_.EnvoySource) -> None:
    """It counted tries by endpoint: nothing of what lies between is told, and the next look counts again."""
    looker = Looker(source, ERRORS, B.id, A.id)
    looker.cursor = {"watched": {"127.0.0.1:1": [90, 10]}, "beside": {"127.0.0.1:2": [900, 1]}}
    assert looker.look() == []
    looker.cursor = source.read(looker.asked, now=50.0, cursor=looker.cursor).cursor
    world.get()
    logged(world)
    seen = looker.one(51.0)
    assert seen.beside is not None
    assert (seen.watched.n + seen.beside.n, seen.watched.bad) == (1, 0)


def _down(looker: Looker, now: float | None = None) -> str:
    seen = looker.one(now)
    assert seen.down
    return seen.detail


def line(bundle_id: str, **more: Any) -> bytes:
    """A line of the access log about a request that was routed to a bundle and answered by it."""
    value = {"t": "1.5", "cluster": f"{_own(bundle_id)}.safe", "arm": "candidate", "path": "/", "bundle": bundle_id, "host": "h:1"}
    value |= {"code": 200, "flags": "-", "attempts": 1, "upstream_us": 5, "total_us": 7, "waited_us": 6, **more}
    return json.dumps(value).encode() + b"\n"


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
    logged(world)
    looker = Looker(source, ERRORS, B.id, A.id)
    assert looker.look() == []
    logged(world)
    seen = looker.one()
    assert seen.beside is not None
    assert seen.watched.n + seen.beside.n == 0


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
    logged(world)
    seen = errors_.one()
    assert (seen.watched.n, seen.watched.bad, seen.watched.copies, seen.watched.user_errors) == (20, 5, 20, None)
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
    """Of 400 requests with known delays the slower ones are over the ceiling, and P99 is what the client measured of those.

    On a busy machine a quicker one may be late too; then the client saw that as well.
    """
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
    assert sum(delay >= 100 for delay in delays) <= bad <= sum(ms >= 100 for ms in measured)
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
    logged(world)
    seen = looker.one()
    assert seen.beside is not None
    assert seen.watched.n + seen.beside.n == 200
    assert 70 <= seen.watched.n <= 130


def test_debug_requests_move_no_split(world: World, source: source_.EnvoySource) -> None:
    """A look by token is no user, and counts in no gate of an arm that has users."""
    token = envoy_files.debug_token(world.settings, make=False)
    lookers = [Looker(source, gate, B.id, A.id, share=0.5) for gate in (SPLIT, ERRORS)]
    for looker in lookers:
        looker.look(0.5)
    for _ in range(5):
        assert world.get(x_lastgood_debug_token=token, x_lastgood_bundle=B.id).bundle == B.id
    logged(world)
    routed, answered = (looker.one(1.0) for looker in lookers)
    assert (routed.watched.n, answered.watched.n) == (0, 0)


def test_a_rebuilt_cluster_loses_no_request(world: World, source: source_.EnvoySource) -> None:
    """A second worker rebuilds the candidate's cluster and with it the counters: every request counts, once."""
    looker = Looker(source, ERRORS, B.id, A.id)
    looker.look()
    for _ in range(30):
        world.get()
    logged(world)
    assert looker.one().watched.n == served(world, B.id) > 5
    first = world.upstreams[B.id]
    world.serve(B)
    before = len(first.requests)
    split(world, 2)
    while len(first.requests) + served(world, B.id) - before < 4:
        world.get()
    logged(world)
    seen = looker.one()
    assert (seen.watched.n, seen.watched.bad) == (4, 0)
    assert looker.one().watched.n == 0
    first.crash()


def test_a_new_envoy_goes_on_in_the_same_log(world: World, source: source_.EnvoySource) -> None:
    """Envoy is killed: down while it is away, then on from where it ended, with the same cursor."""
    looker = Looker(source, ERRORS, B.id, A.id)
    looker.look()
    for _ in range(30):
        world.get()
    logged(world)
    assert looker.one().watched.n == served(world, B.id)
    record = processes.read(envoy_files.files_of_service(world.settings, SERVICE).record)
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    until(lambda: not processes.alive(record), what="Envoy is gone")
    down = looker.one()
    assert down.down
    assert "does not answer" in down.detail
    split(world, 1)
    before = served(world, B.id)
    until(lambda: world.get().status == 200 and served(world, B.id) >= before + 2, what="the candidate answers again")
    logged(world)
    assert looker.one().watched.n == served(world, B.id) - before


def test_an_envoy_that_hangs_is_down_in_time(world: World, source: source_.EnvoySource) -> None:
    """A stopped process: all gates of a look together wait less than two seconds."""
    lookers = [Looker(source, gate, B.id, A.id) for gate in (ERRORS, SPLIT, EJECTIONS, latency(100))]
    for looker in lookers:
        looker.look(0.5)
    record = processes.read(envoy_files.files_of_service(world.settings, SERVICE).record)
    assert record is not None
    timing.freeze(record.pid)
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
    until(lambda: envoy_files.files_of_service(world.settings, SERVICE).ejections.stat().st_size > 0, what="the log is on disk")
    assert [looker.one().watched.value for _ in range(3)] == [1, 1, 1]
    assert looker.one().watched.n == 1


def test_an_ejection_that_nobody_watched_is_found_afterwards(world: World, source: source_.EnvoySource) -> None:
    """The controller was dead and Envoy has been restarted since: the log tells; an analysis that began later is not concerned."""
    began = time.time()
    world.upstreams[B.id].failing = True
    for _ in range(60):
        world.get()
    log = envoy_files.files_of_service(world.settings, SERVICE).ejections
    until(lambda: log.stat().st_size > 0, what="the log is on disk")
    record = processes.read(envoy_files.files_of_service(world.settings, SERVICE).record)
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    until(lambda: not processes.alive(record), what="Envoy is gone")
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
    logged(world)
    seen = looker.one()
    assert seen.watched.bad > 0
    assert seen.beside is not None
    assert seen.beside.n >= 20


def _beside(found: list[Observation]) -> int:
    return sum(seen.beside.n for seen in found if seen.beside is not None)


def test_users_are_counted_on_their_arm(world: World, source: source_.EnvoySource) -> None:
    """The candidate fails for everybody until its worker is put out: only its users are named, once; a request without a key is in no group."""
    looker = Looker(source, ERRORS, B.id, A.id, share=0.5, weight=0.5)
    assert looker.look() == []
    for user in range(40):
        world.get(x_user_id=f"user-{user}")
    for _ in range(10):
        world.get()
    logged(world)
    seen = looker.one()
    assert seen.users is not None
    assert seen.beside is not None
    assert seen.users.seen + seen.users.seen_beside == 40
    assert 5 < seen.users.seen < 35
    assert seen.users.failed == ()
    assert sum(group.n + group.n_beside for group in seen.users.groups) == 40
    assert seen.watched.n + seen.beside.n == 50
    world.upstreams[B.id].failing = True
    for user in range(40):
        world.get(x_user_id=f"user-{user}")
    logged(world)
    failing = looker.one()
    assert failing.users is not None
    assert 3 <= len(failing.users.failed) == failing.watched.bad <= seen.users.seen
    assert all(failure.watched for failure in failing.users.failed)
    assert failing.users.seen + failing.users.seen_beside == 40

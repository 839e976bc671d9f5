"""Whose failure a request is, line by line: worlds in which tries, requests and answers differ."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastgood.gates import gate as gate_run
from lastgood.gates.base import Observation, Tally
from lastgood.layers.traffic.envoy import requests as envoy_requests
from lastgood.layers.traffic.envoy.requests import Batch, Request
from lastgood.service import gates
from lastgood.sources import base
from lastgood.sources import envoy as source_
from lastgood.sources import requests as requests_
from tests.layers.traffic.world import A, B
from tests.sources.lines import LEFT, line, route

ERRORS = gates.ErrorRate(metric="error_rate")
ROUTES = {route(B.id)}


def parsed(*lines: bytes) -> list[Request]:
    """What lines say."""
    found = [envoy_requests.parse(one) for one in lines]
    assert all(found)
    return [one for one in found if one is not None]


def counted(*lines: bytes, gate: gates.AnyGate = ERRORS, before: dict[str, Any] | None = None) -> tuple[Tally, dict[str, Any]]:
    """What a gate gets from these lines for bundle B."""
    asked = base.MeasurementRequest(gate=gate, watched=B.id, beside=None)
    return source_._live(asked, B.id, parsed(*lines), before)[:2]


SAYS: dict[str, tuple[bytes, tuple[int, int, int]]] = {
    "an answer": (line(B.id), (1, 0, 0)),
    "an error": (line(B.id, code=500), (1, 1, 1)),
    "three tries, an error": (line(B.id, code=500, attempts=3, flags="URX"), (1, 1, 1)),
    "a second try by the fallback": (line(B.id, by=A.id, attempts=2), (1, 1, 0)),
    "a second try by itself": (line(B.id, attempts=2), (1, 1, 0)),
    "a time-out": (line(B.id, by=None, code=504, flags="UT", waited_us=None), (1, 1, 1)),
    "a connection refused": (line(B.id, by=None, code=503, flags="URX,UF", attempts=3), (1, 1, 1)),
    "an answer cut off in its middle": (line(B.id, flags="UC"), (1, 1, 1)),
    "nobody there at all": (line(B.id, by=None, host=None, code=503, flags="UH"), (1, 1, 1)),
    "nobody of the arm asked": (line(B.id, by=A.id), (0, 0, 0)),
    "hung up": (line(B.id, **LEFT), (0, 0, 0)),
    "hung up while it was tried again": (line(B.id, attempts=2, **LEFT), (1, 1, 0)),
    "the proxy's limit": (line(B.id, by=None, code=503, flags="UO"), (0, 0, 0)),
    "the caller's fault": (line(B.id, code=422), (0, 0, 0)),
    "the caller's fault, says the fallback": (line(B.id, by=A.id, code=422, attempts=2), (0, 0, 0)),
    "too many requests": (line(B.id, code=429), (0, 0, 0)),
    "not computable, both say": (line(B.id, by=A.id, code=422, attempts=2, problem="uncomputable"), (0, 0, 0)),
    "not computable, the fallback says so too, and it itself once more": (
        line(B.id, code=422, attempts=3, flags="URX", problem="uncomputable"),
        (0, 0, 0),
    ),
    "no answer is taken, at the last try neither": (line(B.id, code=422, attempts=3, flags="URX"), (0, 0, 0)),
    "not computable, nobody else asked": (line(B.id, code=422, problem="uncomputable"), (1, 1, 0)),
    "feedback": (line(B.id, path="/feedback", code=500), (0, 0, 0)),
    "metrics": (line(B.id, path="/metrics"), (0, 0, 0)),
    "by token": (line(B.id, arm="debug", code=500), (0, 0, 0)),
    "straight to the cluster": (line(B.id, cluster=route(B.id).removesuffix(".safe"), code=500), (0, 0, 0)),
    "the other arm's": (line(A.id, code=500), (0, 0, 0)),
    "the proxy itself": (line(B.id, cluster=None, host=None, by=None, arm=None, code=404), (0, 0, 0)),
}


@pytest.mark.parametrize("what", SAYS)
def test_what_a_request_says_of_its_arm(what: str) -> None:
    """How many requests it is, how many failures of the arm, how many errors for users."""
    one, wanted = SAYS[what]
    tally, _ = counted(one)
    assert (tally.n, tally.bad, tally.user_errors) == wanted


def test_one_request_is_not_three_failures() -> None:
    """After a way back one request comes, and stable's worker fails it three times: one of one, never "3 of 3"."""
    gate = ERRORS.model_copy(update={"min_samples": 3})
    one = gate_run.GateState("errors", gate, mode="alone", alpha=0.01, since=0.0, reference=Tally(n=1))
    tally, _ = counted(line(B.id, code=500, attempts=3, flags="URX"))
    one.take(Observation(at=1.0, watched=tally))
    verdict = one.verdict(1.0)
    assert (verdict.n, verdict.user_errors) == (1, 1)
    assert "(1 of 1)" in verdict.why
    assert "users got 1 errors in these 1 requests" in verdict.why


def test_what_users_saw_stands_beside_what_the_arm_did() -> None:
    """The arm failed all, the fallback answered all: the rate is 100 %, and the verdict says that no user got an error."""
    one = gate_run.GateState("errors", ERRORS, mode="alone", alpha=0.01, since=0.0, reference=Tally(n=1))
    tally, _ = counted(*(line(B.id, by=A.id, attempts=2) for _ in range(40)))
    one.take(Observation(at=1.0, watched=tally))
    assert one.verdict(1.0).user_errors == 0
    assert "users got 0 errors in these 40 requests" in one.verdict(1.0).why


def test_a_caller_whose_rows_cannot_be_computed_counts_once() -> None:
    """Whatever it sends, and over looks and restarts: the cursor remembers. Another caller counts again."""
    bad = {"code": 422, "problem": "uncomputable"}
    tally, cursor = counted(*(line(B.id, **bad) for _ in range(200)))
    assert (tally.n, tally.bad) == (1, 1)
    tally, cursor = counted(*(line(B.id, **bad) for _ in range(200)), line(B.id, peer="198.51.100.0/24", **bad), before=cursor)
    assert (tally.n, tally.bad) == (1, 1)
    peers = [line(B.id, peer=f"10.0.{number}.0/24", **bad) for number in range(300)]
    tally, cursor = counted(*peers, before=cursor)
    assert tally.bad == requests_.MOST_CALLERS - 2
    assert len(str(cursor)) < 4096


def test_slow_is_what_a_user_waited_not_what_it_took_to_ask() -> None:
    """A caller that takes a minute to say everything did not wait; one that left after waiting did; time-outs are slower than all."""
    gate = gates.LatencyP99(metric="latency_p99", max_ms=100)
    tally, cursor = counted(
        line(B.id, received_us=60_000_000, waited_us=5_000, total_us=60_005_000, all_ms=60_005),
        line(B.id, waited_us=250_000),
        line(B.id, by=A.id, attempts=2, waited_us=1_200_000),
        line(B.id, **{**LEFT, "all_ms": 5_000}),
        line(B.id, **{**LEFT, "all_ms": 20}),
        line(B.id, **{**LEFT, "all_ms": 5_000, "received_us": None}),
        line(B.id, by=None, code=504, flags="UT", waited_us=None),
        line(B.id, code=422, waited_us=900_000),
        line(B.id, by=A.id, waited_us=900_000),
        gate=gate,
    )
    assert (tally.n, tally.bad, tally.value) == (5, 4, None)
    assert cursor == {"times": {"5": 1, "250": 1, "1200": 1}}
    more, cursor = counted(line(B.id, waited_us=5_400), gate=gate, before=cursor)
    assert (more.n, more.bad, more.value) == (1, 0, 5.4)
    assert cursor["times"]["5"] == 2


def test_lines_of_an_older_proxy_count_too() -> None:
    """One that an older release started, and that was adopted, names neither waits nor problems."""
    text = line(B.id, total_us=7_000).replace(b'"waited_us": 2268, ', b"").replace(b'"received_us": 26, ', b"")
    (one,) = parsed(text)
    assert (one.ms, one.problem) == (7.0, "")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_line_brings_the_reader_down(text: bytes) -> None:
    """Whatever stands in the log, it is a request or none."""
    envoy_requests.parse(text)


@given(st.lists(st.sampled_from(sorted(SAYS)), max_size=60), st.integers(1, 10))
def test_looks_add_up_to_one_look(names: list[str], step: int) -> None:
    """However the lines fall into looks, the sums are those of all at once."""
    lines = [SAYS[name][0] for name in names]
    whole, _ = counted(*lines)
    sums, cursor = [0, 0, 0], None
    for begin in range(0, len(lines), step):
        tally, cursor = counted(*lines[begin : begin + step], before=cursor)
        sums = [sums[0] + tally.n, sums[1] + tally.bad, sums[2] + (tally.user_errors or 0)]
    assert sums == [whole.n, whole.bad, whole.user_errors or 0]


def test_both_arms_and_the_control_arm_are_told_apart() -> None:
    """Errors stand beside all that was routed to stable's bundle, the split and times beside its control arm alone."""
    control = route(A.id).replace(".safe", "-control.safe")
    batch = Batch(
        requests=tuple(parsed(line(B.id), line(A.id), line(A.id), *(line(A.id, cluster=control) for _ in range(3)))),
        end=envoy_requests.BEGINNING,
    )
    found = {}
    for gate in (ERRORS, gates.SampleRatio(metric="sample_ratio")):
        asked = base.MeasurementRequest(gate=gate, watched=B.id, beside=A.id, control=True)
        (seen,) = source_._counted(asked, {}, batch, now=1.0, before={"log": {}}).observations
        assert seen.beside is not None
        found[gate.metric] = seen.watched.n, seen.beside.n
    assert found == {"error_rate": (1, 5), "sample_ratio": (1, 3)}

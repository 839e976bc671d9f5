"""Prometheus as a source: a real one, and one that answers badly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from lastgood.bundle import manifest
from lastgood.gates.base import Observation
from lastgood.service import gates
from lastgood.sources import prometheus as source_
from tests import prometheus, timing
from tests.layers.traffic.world import A, B
from tests.sources import web_server
from tests.sources.looking import Looker

NEW, STABLE = manifest.short(B.id), manifest.short(A.id)


@pytest.fixture(scope="module")
def server() -> Iterator[prometheus.Prometheus]:
    """One Prometheus with a figure for each bundle and arm."""
    with prometheus.serving() as started:
        page = f"""\
queue_length{{bundle="{NEW}"}} 7
queue_length{{bundle="{STABLE}"}} 3
queue_length{{bundle="{STABLE}",shard="2"}} 4.5
cost{{arm="candidate"}} 2
cost{{arm="stable"}} 1
nothing NaN
endless +Inf
"""
        started.show(page, until="endless")
        yield started


def query(text: str, **more: Any) -> gates.Query:
    """A gate with that query."""
    return gates.Query.model_validate({"metric": "promql", "query": text, "max": 10.0, **more})


def one(url: str, gate: gates.AnyGate, *, beside: str | None = A.id) -> Observation:
    """The answer to one look."""
    return Looker(source_.PrometheusSource(url), gate, B.id, beside).one(1.0)


def test_each_arm_has_its_own_figure(server: prometheus.Prometheus) -> None:
    """$bundle is the short id, the highest series counts; $arm is candidate and stable."""
    seen = one(server.url, query('queue_length{bundle="$bundle"}'))
    assert seen.beside is not None
    assert (seen.watched.value, seen.watched.n, seen.beside.value) == (7, 1, 4.5)
    seen = one(server.url + "/", query('cost{arm="$arm"} * 10'))
    assert (seen.watched.value, seen.beside.value if seen.beside else None) == (20, 10)


def test_a_bundle_that_is_alone_is_the_stable_arm(server: prometheus.Prometheus) -> None:
    """After the cut-over there is nothing beside it, and its arm is called stable."""
    seen = one(server.url, query('cost{arm="$arm"}'), beside=None)
    assert (seen.watched.value, seen.beside) == (1, None)


def test_a_query_that_names_no_arm_has_one_value(server: prometheus.Prometheus) -> None:
    """The same figure for both would look like agreement; scalars are values too."""
    assert one(server.url, query("sum(queue_length)")).beside is None
    assert one(server.url, query("scalar(sum(queue_length))")).watched.value == 14.5


def test_a_downstream_query_is_of_the_watched_bundle(server: prometheus.Prometheus) -> None:
    """Health of another service has no second arm."""
    gate = gates.Downstream(metric="downstream", query='queue_length{bundle="$bundle"}', max=5)
    seen = one(server.url, gate)
    assert (seen.watched.value, seen.beside) == (7, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("absent_metric", "no data"),
        ("nothing", "only NaN"),
        ("nothing / 0", "only NaN"),
        ("endless", "inf"),
        ("queue_length[1m]", "matrix"),
        ('"text"', "string"),
        ("sum(", "bad_data"),
        ('queue_length{bundle="$bundle"} > 100', "no data"),
    ],
)
def test_what_is_no_number_is_a_source_that_is_down(server: prometheus.Prometheus, text: str, words: str) -> None:
    """An empty result is not zero, and NaN is not fine."""
    seen = one(server.url, query(text))
    assert seen.down
    assert words in seen.detail


def test_stable_without_data_matters_only_with_a_margin(server: prometheus.Prometheus) -> None:
    """With `max` alone the watched arm's value is enough; with a margin there is nothing to compare with."""
    text = f'queue_length{{bundle="$bundle",bundle="{NEW}"}}'
    assert (one(server.url, query(text)).watched.value, one(server.url, query(text)).beside) == (7, None)
    assert one(server.url, query(text, margin=1.0)).down


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, b"oops", "answered 500"),
        (200, b"<html>", "answered 200"),
        (200, b"[]", "answered 200"),
        (503, json.dumps({"status": "success", "data": {"resultType": "scalar", "result": [1, "1"]}}).encode(), "answered 503"),
        (
            200,
            json.dumps({"status": "success", "data": {"resultType": "vector", "result": [{"value": [1]}]}}).encode(),
            "did not answer with numbers",
        ),
        (
            200,
            json.dumps({"status": "success", "data": {"resultType": "scalar", "result": [1, "x"]}}).encode(),
            "did not answer with numbers",
        ),
        (200, json.dumps({"status": "error", "errorType": "timeout", "error": "too slow"}).encode(), "timeout: too slow"),
    ],
)
def test_answers_of_another_kind_are_down(status: int, body: bytes, words: str) -> None:
    """An error page, another program, half an answer."""
    with web_server.serving() as server:
        server.say(status, body)
        seen = one(server.url, query("up"))
    assert seen.down
    assert words in seen.detail


@pytest.mark.parametrize("drip_s", [0.0, 0.05])
def test_a_prometheus_that_hangs_or_drips_is_down_in_time(drip_s: float) -> None:
    """No answer, or a byte now and then: both arms together take no longer than the gate allows."""
    with web_server.serving() as server:
        server.say(200, b"x" * 10_000)
        server.drip_s = drip_s
        if not drip_s:
            server.answer = None
        seen = timing.soon(lambda: one(server.url, query('up{b="$bundle"}', timeout_s=0.4)), within_s=0.8)
    assert seen.down
    assert "within" in seen.detail


def test_nobody_there_and_nothing_configured_are_down() -> None:
    """The remedy is in the text."""
    with web_server.serving() as server:
        url = server.url
    assert "refused" in one(url, query("up")).detail
    assert "set 'prometheus_url'" in one("", query("up")).detail
    assert one("http://127.0.0.1:nonsense", query("up")).down
    assert one("nonsense", query("up")).down


def test_a_password_is_not_told() -> None:
    """What a person reads in a verdict holds no secret of the address."""
    with web_server.serving() as server:
        url = server.url.replace("http://", "http://user:secret@")
    assert "secret" not in one(url, query("up")).detail

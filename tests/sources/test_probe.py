"""The probe of a service behind this one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lastgood.service import gates
from lastgood.sources import probe
from tests import timing
from tests.layers.traffic.world import A
from tests.sources import web_server
from tests.sources.looking import Looker


@pytest.fixture
def server() -> Iterator[web_server.Server]:
    """A server that answers as it is told."""
    with web_server.serving() as made:
        yield made


def looker(url: str, *, timeout_s: float = 2.0) -> Looker:
    """A gate's place at the source."""
    gate = gates.Downstream(metric="downstream", url=url, timeout_s=timeout_s)
    return Looker(probe.ProbeSource(), gate, A.id)


@pytest.mark.parametrize(("status", "bad"), [(200, 0), (204, 0), (301, 1), (404, 1), (500, 1), (503, 1)])
def test_only_2xx_is_good(server: web_server.Server, status: int, bad: int) -> None:
    """One look is one GET; a redirection is not followed."""
    server.say(status)
    seen = looker(f"{server.url}/health?deep=1").one()
    assert (seen.watched.n, seen.watched.bad, seen.down) == (1, bad, False)
    assert server.asked == ["GET /health?deep=1 HTTP/1.1"]


def test_a_refused_connection_is_a_bad_probe(server: web_server.Server) -> None:
    """The other service is not there: that is what the gate is about, not a source that is down."""
    server.close()
    seen = looker(server.url).one()
    assert (seen.watched.bad, seen.down) == (1, False)
    assert "did not answer" in seen.detail


def test_nonsense_is_a_bad_probe(server: web_server.Server) -> None:
    """An answer that is no HTTP, or none at all."""
    for answer in (b"SSH-2.0-OpenSSH\r\n", b""):
        server.answer = answer
        assert looker(server.url).one().watched.bad == 1


@pytest.mark.parametrize("way", ["silent", "slow head", "slow body"])
def test_a_slow_answer_is_a_bad_probe_in_time(server: web_server.Server, way: str) -> None:
    """A server that sends a byte now and then does not hold up the gates."""
    server.say(200, b"x" * 1000)
    if way == "silent":
        server.answer = None
    server.drip_s = 0.05
    if way == "slow body":
        server.answer = (server.answer or b"")[-1050:]
        server.answer = b"HTTP/1.0 200 x\r\n\r\n" + server.answer
        server.drip_s = 0.01
    seen = timing.soon(lambda: looker(server.url, timeout_s=0.5).one(), within_s=1.0)
    assert seen.watched.bad == 1

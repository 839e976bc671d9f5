"""Answers that are kept: under the bundle that gave them, for a while, and never at the price of an answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lastgood import errors, settings
from lastgood.bundle import manifest
from lastgood.conformance import layers
from lastgood.layers import answer_cache as answers
from lastgood.layers import answer_store, base
from lastgood.settings import Settings
from tests import redis
from tests.layers import wanted

A, B = (
    manifest.bundle_of("demo", manifest.Part(name="model", digest=manifest.sha256(n), size=1, media_type="x/y", uri="store:x"))
    for n in (b"a", b"b")
)
KEY, OTHER = b"k" * 32, b"o" * 32


@pytest.fixture(scope="module")
def server() -> Iterator[redis.Server]:
    """A Redis of this module."""
    with redis.serving() as started:
        yield started


@pytest.fixture
def url(server: redis.Server) -> str:
    """Its address, emptied."""
    server.client().flushall()
    return server.url


def worker(url: str, bundle: manifest.Bundle, *, ttl_s: float = 60.0) -> answer_store.Redis:
    """The cache of a worker that was just started. A busy machine gets more time than users would."""
    return answer_store.Redis(url, service="demo", bundle=bundle.id, ttl_s=ttl_s, timeout_s=5.0)


# --- in memory -----------------------------------------------------------------------------------------------


def test_memory_keeps_an_answer_until_its_time_is_over() -> None:
    """To the second."""
    now = [100.0]
    kept = answer_store.Memory(ttl_s=10, entries=5, clock=lambda: now[0])
    kept.put({KEY: b"one"})
    now[0] = 109.999
    assert kept.get([KEY, OTHER]) == [b"one", None]
    now[0] = 110.0
    assert kept.get([KEY]) == [None]


def test_memory_is_bounded_and_forgets_what_was_not_asked_for() -> None:
    """The least recently used goes first."""
    kept = answer_store.Memory(ttl_s=10, entries=2, clock=lambda: 0.0)
    kept.put({b"1": b"one", b"2": b"two"})
    kept.get([b"1"])
    kept.put({b"3": b"three"})
    assert kept.get([b"1", b"2", b"3"]) == [b"one", None, b"three"]


# --- in Redis ------------------------------------------------------------------------------------------------


def test_workers_of_one_bundle_share_and_others_do_not(url: str) -> None:
    """What A answered is A's, whichever worker asks; for B it is not there."""
    worker(url, A).put({KEY: b"by A"})
    assert worker(url, A).get([KEY, OTHER]) == [b"by A", None]
    assert worker(url, B).get([KEY]) == [None]
    assert worker(url, A).get([]) == []


def test_an_answer_has_its_time(url: str, server: redis.Server) -> None:
    """Redis itself forgets it."""
    worker(url, A, ttl_s=60).put({KEY: b"x"})
    (name,) = server.client().keys("*:answer:*")
    assert 0 < server.client().pttl(name) <= 60_000


def test_a_value_of_another_bundle_under_the_right_name_is_not_served(url: str, server: redis.Server) -> None:
    """Whoever wrote it there: the value says whose it is."""
    worker(url, A).put({KEY: b"by A"})
    (name,) = server.client().keys("*:answer:*")
    server.client().set(name, bytes.fromhex(B.id[7:]) + b"by B")
    assert worker(url, A).get([KEY]) == [None]
    server.client().set(name, b"short")
    assert worker(url, A).get([KEY]) == [None]


def test_after_the_fence_nothing_of_before_is_found(url: str) -> None:
    """Not by a new worker of the same bundle; and what an old one still writes is found by nobody new."""
    old = worker(url, B)
    old.put({KEY: b"bad"})
    assert answer_store.known_bundles(url, "demo") == {B.id}
    answer_store.forget_answers(url, "demo", [B.id])
    old.put({OTHER: b"late"})
    fresh = worker(url, B)
    assert fresh.get([KEY, OTHER]) == [None, None]
    fresh.put({KEY: b"good"})
    assert worker(url, B).get([KEY]) == [b"good"]


def test_a_redis_that_is_away_costs_no_answer(server: redis.Server, url: str) -> None:
    """Nothing is raised, and it is left alone for a while before it is asked again."""
    kept = worker(url, A)
    kept.put({KEY: b"x"})
    server.kill()
    try:
        assert kept.get([KEY]) == [None]
        kept.put({KEY: b"y"})
        with pytest.raises(errors.Unavailable, match="cannot be reached"):
            answer_store.known_bundles(url, "demo")
    finally:
        server.start()
    assert kept.get([KEY]) == [None], "it rests"
    kept._rest_until = 0.0
    kept.put({KEY: b"z"})
    assert kept.get([KEY]) == [b"z"]


def test_an_address_that_is_none_is_refused_without_its_password(tmp_path: Path) -> None:
    """And the settings choose."""
    here = Settings(project=tmp_path, home=tmp_path, cache=settings.CacheSettings(url="http://user:hidden@host"))
    with pytest.raises(errors.UsageError, match="redis://HOST") as refused:
        answer_store.connect(here, service="demo", bundle=A.id, ttl_s=1, entries=1)
    assert "hidden" not in str(refused.value)
    plain = answer_store.connect(Settings(project=tmp_path, home=tmp_path), service="demo", bundle=A.id, ttl_s=1, entries=1)
    assert isinstance(plain, answer_store.Memory)


# --- the layer -----------------------------------------------------------------------------------------------


class AnswersSubject(layers.Subject):
    """The fence on a real Redis."""

    def __init__(self, server: redis.Server, folder: Path) -> None:
        self.server = server
        self.settings = Settings(project=folder, home=folder / "home", cache=settings.CacheSettings(url=server.url))
        self.bundles = (A, B)
        self.layer = self.reopen()

    def desired(self, revision: int, *, stable: manifest.Bundle | None, previous: manifest.Bundle | None = None) -> base.Desired:
        """What a ledger would say."""
        return wanted.desired(self.bundles, revision, stable=stable, previous=previous)

    def reopen(self) -> base.Layer:
        """Another object on the same Redis."""
        return answers.build(self.settings, "demo")

    def take_down(self) -> None:
        """Kill it."""
        self.server.kill()

    def bring_up(self) -> None:
        """Start it, empty."""
        self.server.start()

    def tamper(self) -> None:
        """A bundle that no alias names has answers."""
        stranger = manifest.bundle_of(
            "demo", manifest.Part(name="model", digest=manifest.sha256(b"c"), size=1, media_type="x/y", uri="store:x")
        )
        worker(self.server.url, stranger).put({KEY: b"x"})


class TestAnswers(layers.LayerSuite):
    """The suite, on Redis."""

    @pytest.fixture
    def subject(self, tmp_path: Path) -> Iterator[AnswersSubject]:
        """A fresh Redis, and answers of the first bundle in it."""
        with redis.serving() as started:
            yield AnswersSubject(started, tmp_path)


def test_a_rollback_fences_the_bad_bundle_and_keeps_the_good_one(url: str, server: redis.Server, tmp_path: Path) -> None:
    """Through the layer: B is rolled back, then released again much later."""
    subject = AnswersSubject(server, tmp_path)
    worker(url, A).put({KEY: b"by A"})
    worker(url, B).put({KEY: b"by B"})
    subject.settled(subject.layer, subject.desired(1, stable=B, previous=A))
    assert worker(url, B).get([KEY]) == [b"by B"]
    subject.settled(subject.layer, subject.desired(2, stable=A))
    assert worker(url, A).get([KEY]) == [b"by A"]
    subject.settled(subject.layer, subject.desired(3, stable=B, previous=A))
    assert worker(url, B).get([KEY]) == [None]

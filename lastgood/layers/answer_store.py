"""Answers cached under the bundle that gave them: one bundle's answer is never served as another's.

A key contains the bundle's digest and its *epoch*. After a rollback nothing of the bad bundle can be found, because the good one
looks up its own digest. The epoch increases when no alias names a bundle any more (`layers.answer_cache`): if the bundle returns
one day, it starts with an empty cache, even if one of its old workers was still writing meanwhile.

In the worker's memory by default; with `cache.url` in a Redis shared by all workers. A cache that is unreachable, slow or full
costs time but never an answer.

What does not belong here: which rows may be cached (`serving.app`).
"""

from __future__ import annotations

import abc
import collections
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lastgood import errors
from lastgood.settings import Settings

if TYPE_CHECKING:
    pass

log = logging.getLogger("lastgood.cache")

PAUSE_S = 5.0
"""Seconds for which Redis is not used after an error, so that an outage costs an occasional time-out and not one per request."""


class Cache(abc.ABC):
    """The answers of one bundle. Thread-safe; methods do not raise."""

    @abc.abstractmethod
    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The cached answer for each key, None where there is none."""

    @abc.abstractmethod
    def put(self, answers: Mapping[bytes, bytes]) -> None:
        """Store *answers* for the configured time."""

    def close(self) -> None:  # noqa: B027  # memory goes with its owner
        """Close connections."""


class Memory(Cache):
    """In this process: at most *entries* answers, the least recently used are dropped first."""

    def __init__(self, *, ttl_s: float, entries: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s = ttl_s
        self._entries = entries
        self._clock = clock
        self._kept: collections.OrderedDict[bytes, tuple[float, bytes]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._lock:
            return [self._one(key) for key in keys]

    def _one(self, key: bytes) -> bytes | None:
        until, answer = self._kept.get(key, (0.0, b""))
        if until <= self._clock():
            self._kept.pop(key, None)
            return None
        self._kept.move_to_end(key)
        return answer

    def put(self, answers: Mapping[bytes, bytes]) -> None:
        until = self._clock() + self._ttl_s
        with self._lock:
            for key, answer in answers.items():
                self._kept[key] = until, answer
                self._kept.move_to_end(key)
            while len(self._kept) > self._entries:
                self._kept.popitem(last=False)


class Redis(Cache):
    """In a Redis shared by several workers. Each value begins with the digest that its key was made from, and is checked against it."""

    def __init__(self, url: str, *, service: str, bundle: str, ttl_s: float, timeout_s: float = 0.05) -> None:
        self._client = _client(url, timeout_s=timeout_s)
        self._service, self._bundle, self._ttl_s = service, bundle, ttl_s
        self._mark = bytes.fromhex(bundle.removeprefix("sha256:"))
        self._rest_until = 0.0
        self._epoch: int | None = None

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found = self._try(lambda: self._client.mget([self._name(key) for key in keys]) if keys else [])
        if found is None:
            return [None] * len(keys)
        return [value[32:] if value is not None and value[:32] == self._mark else None for value in found]

    def put(self, answers: Mapping[bytes, bytes]) -> None:
        def work() -> None:
            pipe = self._client.pipeline(transaction=False)
            for key, answer in answers.items():
                pipe.set(self._name(key), self._mark + answer, px=max(1, round(self._ttl_s * 1000)))
            pipe.execute()

        self._try(work)

    def close(self) -> None:
        self._client.close()

    def _name(self, key: bytes) -> str:
        """The epoch is read once: a worker that outlives its bundle's time continues under the old one, where nobody looks."""
        if self._epoch is None:
            pipe = self._client.pipeline(transaction=True)
            pipe.sadd(_known(self._service), self._bundle)
            pipe.hget(_epochs(self._service), self._bundle)
            self._epoch = int(pipe.execute()[1] or 0)
        named = hashlib.sha256(f"{self._bundle}\n{self._epoch}\n".encode() + key).hexdigest()
        return f"lastgood:{self._service}:answer:{named}"

    def _try(self, work: Callable[[], Any]) -> Any:
        import redis

        if time.monotonic() < self._rest_until:
            return None
        try:
            return work()
        except redis.RedisError as error:
            self._rest_until = time.monotonic() + PAUSE_S
            log.warning("answers are not cached for %g s: Redis: %s", PAUSE_S, error)
            return None


def connect(settings: Settings, *, service: str, bundle: str, ttl_s: float, entries: int) -> Cache:
    """The cache of one worker, according to the settings. Raises UsageError for an invalid address."""
    if not settings.cache.url:
        return Memory(ttl_s=ttl_s, entries=entries)
    return Redis(settings.cache.url, service=service, bundle=bundle, ttl_s=ttl_s)


# --- the fence ---------------------------------------------------------------------------------


def known_bundles(url: str, service: str) -> set[str]:
    """The bundles of *service* that may have answers in the Redis at *url*. Raises Unavailable."""
    found: set[str] = _told(url, lambda client: {member.decode() for member in client.smembers(_known(service))})
    return found


def forget_answers(url: str, service: str, bundles: Collection[str]) -> None:
    """From now on no answer that *bundles* have given so far is found again. Raises Unavailable.

    Takes one call, however many answers there are; they expire by themselves.
    """

    def work(client: Any) -> None:
        pipe = client.pipeline(transaction=True)
        for bundle in bundles:
            pipe.hincrby(_epochs(service), bundle, 1)
            pipe.srem(_known(service), bundle)
        pipe.execute()

    _told(url, work)


def _told(url: str, work: Callable[[Any], Any]) -> Any:
    import redis

    client = _client(url, timeout_s=2.0)
    try:
        return work(client)
    except redis.RedisError as error:
        raise errors.Unavailable(f"the cache at {_plain(url)} cannot be reached: {error}; start it, or remove cache.url") from error
    finally:
        client.close()


def _client(url: str, *, timeout_s: float) -> Any:
    try:
        import redis

        return redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
    except ImportError as error:
        raise errors.UsageError(f"cache.url is set, but redis is not installed ({error}); install 'lastgood[redis]'") from error
    except ValueError as error:
        raise errors.UsageError(f"cache.url {_plain(url)!r} is not the address of a Redis: {error}; use redis://HOST:PORT/0") from error


def _plain(url: str) -> str:
    """*url* without a password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _known(service: str) -> str:
    return f"lastgood:{service}:bundles"


def _epochs(service: str) -> str:
    return f"lastgood:{service}:epochs"

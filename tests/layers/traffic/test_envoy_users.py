"""Which user gets which arm, and what the log says of users, through a real Envoy and against the same computed without it."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lastgood import errors
from lastgood.layers.traffic.envoy import config as envoy_config
from lastgood.layers.traffic.envoy import files as envoy_files
from lastgood.layers.traffic.envoy import layer as envoy
from lastgood.layers.traffic.envoy import requests as envoy_requests
from lastgood.layers.traffic.envoy import users
from lastgood.layers.traffic.envoy.documents import dumps
from lastgood.layers.traffic.envoy.requests import Request
from tests.layers.traffic import split
from tests.layers.traffic.world import A, B, World, until

SALT, OTHER = "00112233445566778899aabbccddeeff", "f0e1d2c3b4a5968778695a4b3c2d1e0f"
USERS = [f"user-{number}" for number in range(2000)]
SOME = USERS[:400]
ARM = {envoy_config.safe_name(bundle.id): bundle.id for bundle in (A, B)}

Named = Callable[[str], Mapping[str, str]]


def by_header(user: str) -> Mapping[str, str]:
    """The headers of a request by *user*."""
    return {"x-user-id": user}


def by_cookie(user: str) -> Mapping[str, str]:
    """The headers of a request with *user* in the cookie."""
    return {"cookie": f"lang=en; session={user}; x-session=nobody"}


@contextlib.contextmanager
def connected(world: World) -> Iterator[http.client.HTTPConnection]:
    """One kept connection to the proxy."""
    connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=10)
    with contextlib.closing(connection):
        yield connection


def served(world: World, ids: Sequence[str], named: Named = by_header) -> dict[str, str]:
    """The bundle that answers each of these users."""
    found = {}
    with connected(world) as connection:
        for user in ids:
            connection.request("GET", "/", headers=dict(named(user)))
            answer = connection.getresponse()
            answer.read()
            found[user] = str(answer.headers["x-lastgood-bundle"])
    return found


def inside(world: World, ids: Sequence[str], named: Named = by_header) -> set[str]:
    """Those of these users whom the candidate answers."""
    return {user for user, bundle in served(world, ids, named).items() if bundle == B.id}


def demanded(ids: Sequence[str], share: float, *, salt: str) -> set[str]:
    """Those of these users whom the candidate has to answer."""
    weights = {B.id: share, A.id: 100 - share}
    return {user for user in ids if split.arm(weights, split.bucket(user, salt)) == B.id}


def logged(world: World, count: int) -> list[Request]:
    """The last *count* requests of the log, once it has them."""
    log = envoy_requests.RequestLog(envoy_files.files_of_service(world.settings, "echo").access_log)
    until(lambda: log.read(envoy_requests.BEGINNING, limit_s=10).lines >= count, what=f"{count} lines in the log")
    return list(log.read(envoy_requests.BEGINNING, limit_s=10).requests)[-count:]


def ramp(world: World, revision: int, share: float, *, salt: str = SALT) -> None:
    """The candidate gets *share* percent of the users."""
    world.layer().apply(world.desired(revision, A, candidate=B, weights={B.id: share, A.id: 100 - share}, salt=salt))


@pytest.fixture
def canary(world: World) -> World:
    """Envoy runs, A and B answer, A is stable."""
    world.serve(A, B)
    world.start()
    world.layer().apply(world.desired(1, A))
    return world


# --- the two hashes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "digest"),
    [(0, "726fdb47dd0e0e31"), (1, "74f839c593dc67fd"), (7, "ab0200f58b01d137"), (8, "93f5f5799a932462"), (15, "a129ca6149be45e5")],
)
def test_names_are_siphash(size: int, digest: str) -> None:
    """The computed name is that of the authors' vectors: key and text count up from zero."""
    assert split.keyed(bytes(range(size)).decode(), "07060504030201000f0e0d0c0b0a0908") == digest


@pytest.mark.parametrize(
    ("text", "digest"),
    [(b"", 0xEF46DB3751D8E999), (b"a", 0xD24EC4F1A98C6E5B), (b"abc", 0x44BC2CF5AD770999), (b"asdf", 0x415872F599CEA71E)],
)
def test_buckets_are_xxhash(text: bytes, digest: int) -> None:
    """The computed bucket is by xxHash64 with seed 0, as Envoy's."""
    assert split.xxhash64(text) == digest


# --- who gets which arm ------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [by_header, by_cookie])
def test_every_arm_is_what_the_users_bucket_demands(canary: World, named: Named) -> None:
    """Of 2,000 users each is answered, and logged, by the arm of its bucket, under its own name; each name once."""
    ramp(canary, 2, 5.0)
    answered = served(canary, USERS, named)
    demand = demanded(USERS, 5.0, salt=SALT)
    assert {user for user, bundle in answered.items() if bundle == B.id} == demand
    key = envoy_files.user_key(canary.settings)
    lines = {line.user: ARM[line.route] for line in logged(canary, len(USERS))}
    assert lines == {split.keyed(user, key): B.id if user in demand else A.id for user in USERS}
    assert 60 < len(demand) < 140


def test_another_release_has_other_users(canary: World) -> None:
    """Of the users on a 5 % arm no more are on that of the next release than by chance; no bare id decides any more."""
    ramp(canary, 2, 5.0)
    first = inside(canary, USERS)
    ramp(canary, 3, 5.0, salt=OTHER)
    second = inside(canary, USERS)
    bare = demanded(USERS, 5.0, salt="")
    assert (first, second) == (demanded(USERS, 5.0, salt=SALT), demanded(USERS, 5.0, salt=OTHER))
    for one, two in itertools.combinations((first, second, bare), 2):
        by_chance = len(one) * len(two) / len(USERS)
        assert abs(len(one & two) - by_chance) < 4 * math.sqrt(by_chance)


def test_a_release_keeps_its_users_as_it_grows(canary: World) -> None:
    """From 1 to 5, 20 and 50 % users only ever move towards the candidate, also across the end and the start of the proxy."""
    before: set[str] = set()
    for revision, share in enumerate((1.0, 5.0, 20.0, 50.0), start=2):
        ramp(canary, revision, share)
        found = inside(canary, SOME)
        assert before <= found == demanded(SOME, share, salt=SALT)
        before = found
    envoy.stop(canary.settings, "echo")
    envoy.start_if_down(canary.settings, "echo")
    assert inside(canary, SOME) == before


def test_logging_in_is_another_user(canary: World) -> None:
    """The header counts before the cookie, and an empty one is none: who had a cookie and then has an id may change sides."""
    ramp(canary, 2, 50.0)
    both = {user: {"x-user-id": user, **by_cookie("visitor")} for user in SOME[:100]}
    assert inside(canary, list(both), lambda user: both[user]) == demanded(list(both), 50.0, salt=SALT)
    assert inside(canary, SOME[:50], lambda user: {"x-user-id": "", **by_cookie(user)}) == demanded(SOME[:50], 50.0, salt=SALT)


def test_a_request_without_a_key_is_randomized_itself(canary: World) -> None:
    """Neither header nor cookie: each request may go to either arm, and the log names nobody."""
    ramp(canary, 2, 50.0)
    for headers in ({}, {"cookie": "lang=en"}, {"cookie": "session="}, {"x-lastgood-users": "forged"}):
        found = [served(canary, ["nobody"], lambda _, sent=headers: sent)["nobody"] for _ in range(60)]
        assert 10 < found.count(B.id) < 50
    assert {line.user for line in logged(canary, 240)} == {""}


@pytest.mark.parametrize("cookie", ["session=ann", "a=b;session=ann", 'a=b;  session="ann"; c=d', "xsession=bob; session=ann; session=bob"])
def test_a_cookie_is_read_as_it_is_written(canary: World, cookie: str) -> None:
    """Whatever stands around it, and in whichever place; a name that only ends alike is another one."""
    served(canary, ["ann"], lambda _: {"cookie": cookie})
    assert [line.user for line in logged(canary, 1)] == [split.keyed("ann", envoy_files.user_key(canary.settings))]


def test_names_of_any_length_and_letters(canary: World) -> None:
    """The name of a user is the same hash whatever its id looks like, and the same in every release."""
    canary.service = canary.configured(user_header="X-Who", user_cookie="we.ird-name")
    ids = ["a", "1234567", "12345678", "x" * 300, "grüße", "%d|[a-z]+"]
    for revision, salt in ((2, SALT), (3, OTHER)):
        ramp(canary, revision, 50.0, salt=salt)
        served(canary, ids, lambda user: {"x-who": user.encode().decode("latin-1")})
        served(canary, ["plain"], lambda user: {"cookie": f"weXird-name=no; we.ird-name={user}"})
    key = envoy_files.user_key(canary.settings)
    assert [line.user for line in logged(canary, 2 * len(ids) + 2)] == [split.keyed(user, key) for user in [*ids, "plain"]] * 2


def test_with_the_token_a_user_is_who_it_is(canary: World) -> None:
    """The split by salt chooses the route anew, and a debug token counts then too: the arm is the same and is told, a bundle can be named."""
    ramp(canary, 2, 50.0)
    token = {"x-lastgood-debug-token": envoy_files.debug_token(canary.settings, make=False)}
    assert inside(canary, SOME[:40], lambda user: {**by_header(user), **token}) == demanded(SOME[:40], 50.0, salt=SALT)
    for user in SOME[:5]:
        reply = canary.get(x_user_id=user, **{name.replace("-", "_"): value for name, value in token.items()})
        assert reply.headers["x-lastgood-arm"] in ("candidate", "stable")
    assert set(served(canary, SOME[:20], lambda user: {**by_header(user), **token, "x-lastgood-bundle": B.id}).values()) == {B.id}


# --- what an older release has begun -----------------------------------------------------------------------


def _as_an_older_release_started_it(world: World) -> None:
    files = envoy_files.files_of_service(world.settings, "echo")
    envoy.stop(world.settings, "echo")
    document: dict[str, Any] = json.loads(files.bootstrap.read_bytes())
    manager = document["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = [one for one in manager["http_filters"] if one["name"] != users.FILTER]
    envoy_files.write(files.bootstrap, dumps(document))
    envoy.start_if_down(world.settings, "echo")


def test_nobody_changes_sides_because_the_proxy_is_an_older_one(canary: World) -> None:
    """It goes on splitting by bare ids; a release begun so ends so, also by a new proxy; the next one is salted."""
    _as_an_older_release_started_it(canary)
    ramp(canary, 2, 20.0)
    bare = demanded(SOME, 20.0, salt="")
    assert inside(canary, SOME) == inside(canary, SOME, by_cookie) == bare
    assert {line.user for line in logged(canary, len(SOME))} == {""}
    envoy.stop(canary.settings, "echo")
    canary.start()
    ramp(canary, 3, 50.0)
    assert bare <= inside(canary, SOME) == demanded(SOME, 50.0, salt="")
    canary.layer().apply(canary.desired(4, A))
    ramp(canary, 5, 20.0)
    assert inside(canary, SOME) == demanded(SOME, 20.0, salt=SALT)


def test_a_release_that_an_older_release_of_lastgood_proposed_is_split_by_bare_ids(canary: World) -> None:
    """Its proposal has no salt; the log names users all the same."""
    ramp(canary, 2, 20.0, salt="")
    assert inside(canary, SOME) == demanded(SOME, 20.0, salt="")
    key = envoy_files.user_key(canary.settings)
    assert [line.user for line in logged(canary, len(SOME))] == [split.keyed(user, key) for user in SOME]


# --- what nobody else learns -------------------------------------------------------------------------------


def test_the_secrets_stay_in_closed_files(canary: World, tmp_path: Path) -> None:
    """Salt and key are in files of this account alone; no answer, no log and nothing that is observed has them, nor an id."""
    ramp(canary, 2, 50.0)
    key = envoy_files.user_key(canary.settings)
    reply = canary.get(x_user_id="a-person")
    logged(canary, 1)
    secrets = (SALT, key, "a-person")
    assert not any(secret in str(reply.headers) for secret in secrets[:2])
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        text = file.read_bytes().decode("utf-8", "replace")
        if any(secret in text for secret in secrets):
            assert file.stat().st_mode & 0o077 == 0
            assert not file.name.endswith(".log")
    observed = canary.layer().observe()
    assert not any(secret in str(observed) for secret in secrets)
    assert observed.facts["randomizes"] == canary.layer().randomizes == "user"


def test_a_user_key_is_made_once(world: World) -> None:
    """Every start names users alike, for their names are to stay the same over years."""
    first = envoy_files.user_key(world.settings)
    assert envoy_files.user_key(world.settings) == first
    assert (world.settings.keys / "users.key").stat().st_mode & 0o777 == 0o600
    assert len(bytes.fromhex(first)) == 16


def test_a_damaged_user_key_is_not_taken(world: World) -> None:
    """Envoy is not started with it, and the error says what to do."""
    envoy_files.user_key(world.settings)
    (world.settings.keys / "users.key").write_text("short")
    with pytest.raises(errors.Damaged, match="remove it"):
        world.start()

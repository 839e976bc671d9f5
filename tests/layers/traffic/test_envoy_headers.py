"""What a caller gets and what a worker sees, through a real Envoy."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from lastgood.bundle import manifest
from lastgood.layers import base
from lastgood.layers.traffic import headers as traffic_headers
from lastgood.layers.traffic.envoy import files as envoy_files
from tests.layers.traffic.world import A, B, C, Reply, World, until


@pytest.fixture
def serving(world: World) -> World:
    """B is stable, A previous, both answer."""
    world.serve(A, B)
    world.start()
    world.layer().apply(world.desired(3, B, previous=A))
    return world


def test_an_answer_says_who_made_it(serving: World) -> None:
    """Bundle (from the worker itself), revision (from Envoy, over the worker's own) and both ids stand in the answer; the arm does not."""
    reply = serving.get("/predict", method="POST", body=b"{}")
    assert reply.status == 200
    assert reply.bundle == B.id == reply.body["bundle"]
    assert "x-lastgood-arm" not in reply.headers
    assert reply.revision == 3
    assert reply.headers["x-request-id"] == reply.body["headers"]["x-request-id"]
    assert reply.headers["x-lastgood-request-id"] == reply.body["headers"]["x-lastgood-request-id"]
    assert reply.headers["x-lastgood-request-id"] != reply.headers["x-request-id"]


def test_the_debug_token_tells_the_arm_and_asks_the_worker_for_the_parts(serving: World) -> None:
    """Its holder goes the way of all others and learns more; one who guesses learns nothing."""
    token = envoy_files.debug_token(serving.settings, make=False)
    for path in ("/predict", "/feedback"):
        reply = serving.get(path, x_lastgood_debug_token=token)
        assert (reply.bundle, reply.headers["x-lastgood-arm"]) == (B.id, "stable")
        assert reply.body["headers"]["x-lastgood-disclose"] == "all"
        guessed = serving.get(path, x_lastgood_debug_token="guess")
        assert "x-lastgood-arm" not in guessed.headers
        assert "x-lastgood-disclose" not in guessed.body["headers"]


def test_the_token_does_not_change_the_arm_of_a_user(world: World) -> None:
    """With and without it a user is on the same side of the split."""
    world.serve(A, B)
    world.start()
    world.layer().apply(world.desired(2, A, candidate=B, weights={B.id: 50.0, A.id: 50.0}))
    token = envoy_files.debug_token(world.settings, make=False)
    for number in range(40):
        user = f"user-{number}"
        assert world.get(x_user_id=user).bundle == world.get(x_user_id=user, x_lastgood_debug_token=token).bundle


def test_a_service_may_tell_nothing_of_itself(world: World) -> None:
    """traffic.disclose: none leaves the ids in the answer; the holder of the token is told all the same, and the log knows too."""
    world.serve(A, B)
    world.start()
    world.service = world.configured(disclose="none")
    world.layer().apply(world.desired(3, B, previous=A))
    ours = {name for name in world.get("/quiet").headers if name.startswith("x-lastgood-")}
    assert ours == {"x-lastgood-request-id"}
    told = world.get("/told", x_lastgood_debug_token=envoy_files.debug_token(world.settings, make=False))
    assert (told.bundle, told.revision, told.headers["x-lastgood-arm"]) == (B.id, 3, "stable")
    log = envoy_files.files_of_service(world.settings, "echo").access_log
    until(lambda: "/told" in log.read_text(), what="the log is flushed")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {(line["path"], line["arm"], line["revision"]) for line in lines} == {("/quiet", "stable", "3"), ("/told", "stable", "3")}


def test_a_request_id_is_kept_if_given(serving: World) -> None:
    """The caller's own id goes to the worker and comes back."""
    reply = serving.get(x_request_id="mine-1")
    assert reply.headers["x-request-id"] == reply.body["headers"]["x-request-id"] == "mine-1"


def test_a_request_id_that_the_worker_replaces_comes_back_replaced(serving: World) -> None:
    """The id in the answer is the one in the worker's log, or feedback would not find its prediction."""
    assert serving.get(x_request_id="not one id").headers["x-request-id"] == f"worker-{len(serving.upstreams[B.id].requests)}"


def test_callers_cannot_set_our_headers(serving: World) -> None:
    """Inbound x-lastgood-* and x-envoy-* are gone when the worker gets the request; the arm it sees is Envoy's."""
    reply = serving.get(x_lastgood_arm="candidate", X_LastGood_Bundle=A.id, x_lastgood_anything="1", x_envoy_retry_on="5xx")
    seen = reply.body["headers"]
    assert reply.bundle == B.id
    ours = {key: value for key, value in seen.items() if key.startswith("x-lastgood-")}
    assert len(ours.pop(traffic_headers.REQUEST_ID)) == 36
    assert ours == {traffic_headers.ARM: "stable", traffic_headers.REVISION: "3", traffic_headers.PEER: "127.0.0.1"}
    assert "x-envoy-retry-on" not in seen


OURS = sorted(
    value
    for name, value in vars(traffic_headers).items()
    if name.isupper() and str(value).startswith(traffic_headers.PREFIX) and value != traffic_headers.PREFIX
)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("spelled", [str, str.upper, str.title])
def test_no_mark_of_ours_can_come_from_outside(serving: World, name: str, spelled: Callable[[str], str]) -> None:
    """Whatever header our code reads as its own word: sent by a caller, in any spelling, it changes nothing that a worker is told."""
    assert len(OURS) >= 8
    plain, forged = serving.get(), serving.get(**{spelled(name): "1"}, Host="127.0.0.1-shadow")

    def seen(reply: Reply) -> dict[str, str]:
        drop = (traffic_headers.REQUEST_ID, traffic_headers.CALLER_ID, "host")
        return {key: value for key, value in reply.body["headers"].items() if key not in drop}

    assert seen(forged) == seen(plain)
    assert forged.body["headers"][traffic_headers.REQUEST_ID] not in ("1", plain.body["headers"][traffic_headers.REQUEST_ID])
    assert forged.bundle == plain.bundle == B.id


def test_a_forwarded_address_is_not_the_peer(serving: World) -> None:
    """Who sent a request is the connection's word, not a header's."""
    reply = serving.get(x_forwarded_for="203.0.113.9", x_real_ip="203.0.113.9", forwarded="for=203.0.113.9")
    assert reply.body["headers"][traffic_headers.PEER] == "127.0.0.1"


def test_a_request_keeps_its_id_when_it_is_asked_again_and_copied(world: World) -> None:
    """Try, second try and copy are one request; the copy alone is marked as one."""
    world.serve(A, B, C)
    world.start()
    world.layer().apply(world.desired(2, B, previous=A, candidate=C, mirror=(C.id, 100.0)))
    world.upstreams[B.id].failing = True
    reply = world.get("/predict", x_request_id="mine")
    assert reply.bundle == A.id
    until(lambda: world.upstreams[C.id].seen, what="the copy arrives")
    tries = [world.upstreams[bundle.id].seen[-1] for bundle in (A, B, C)]
    assert {headers[traffic_headers.REQUEST_ID] for headers in tries} == {reply.headers[traffic_headers.REQUEST_ID]}
    assert [headers.get(traffic_headers.SHADOW) for headers in tries] == [None, None, "1"]


@pytest.mark.parametrize("name", [A.id, manifest.short(A.id)])
def test_the_debug_token_chooses_a_bundle(serving: World, name: str) -> None:
    """With the token a full digest or its short form picks a warm bundle; the token does not reach the worker."""
    token = envoy_files.debug_token(serving.settings, make=False)
    reply = serving.get(x_lastgood_debug_token=token, x_lastgood_bundle=name)
    assert reply.bundle == A.id
    assert reply.headers["x-lastgood-arm"] == "debug"
    assert token not in str(reply.body["headers"])


def test_a_wrong_debug_token_chooses_nothing(serving: World) -> None:
    """Without the exact token the header is ignored, and an empty one is not a token."""
    for token in ("", "guess"):
        assert serving.get(x_lastgood_debug_token=token, x_lastgood_bundle=A.id).bundle == B.id


def test_the_debug_token_and_an_unknown_bundle_get_404(serving: World) -> None:
    """Asked for a bundle that is not here, nobody else answers in its place."""
    token = envoy_files.debug_token(serving.settings, make=False)
    reply = serving.get(x_lastgood_debug_token=token, x_lastgood_bundle=C.id)
    assert reply.status == 404
    assert "no worker" in reply.body["error"]


def test_the_debug_token_is_private(serving: World) -> None:
    """The token, and every file that holds it, can be read by this user only."""
    files = envoy_files.files_of_service(serving.settings, "echo")
    for path in (serving.settings.keys / "debug.token", files.routes, files.kept):
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert files.root.stat().st_mode & 0o777 == 0o700
    assert files.admin.stat().st_mode & 0o777 == 0o600


def test_nothing_serves_yet(world: World) -> None:
    """Before the first release every request gets 503 and what to do, as JSON."""
    world.start()
    for reply in (world.get("/predict"), world.get("/feedback", method="POST", body=b"{}")):
        assert reply.status == 503
        assert "lastgood promote echo" in reply.body["error"]
        assert reply.revision == 0
        assert reply.headers["x-request-id"]


def test_an_error_is_asked_again_but_feedback_is_not(serving: World) -> None:
    """Stable answers 500: predictions are answered by previous; feedback is sent once and its answer passed on."""
    serving.upstreams[B.id].failing = True
    assert serving.get("/predict").bundle == A.id
    before = len(serving.upstreams[B.id].requests), len(serving.upstreams[A.id].requests)
    reply = serving.get("/feedback", method="POST", body=b"{}")
    assert (reply.status, reply.bundle) == (500, B.id)
    assert (len(serving.upstreams[B.id].requests), len(serving.upstreams[A.id].requests)) == (before[0] + 1, before[1])


def test_a_service_with_side_effects_is_asked_once(world: World) -> None:
    """idempotent: false: a failed answer is passed on, nobody is asked again."""
    world.serve(A, B)
    world.start()
    world.service = world.configured(idempotent=False)
    world.layer().apply(world.desired(3, B, previous=A))
    world.upstreams[B.id].failing = True
    reply = world.get("/predict")
    assert (reply.status, reply.bundle) == (500, B.id)
    assert world.upstreams[A.id].requests == []


def test_a_mirror_copies_requests_but_not_feedback(world: World) -> None:
    """The candidate sees a copy of every prediction and none of the feedback; callers get stable's answers only."""
    world.serve(A, B)
    world.start()
    layer = world.layer()
    wanted = world.desired(2, A, candidate=B, mirror=(B.id, 100.0))
    layer.apply(wanted)
    assert layer.verify(wanted, layer.observe()) is True
    assert world.get("/feedback", method="POST", body=b"{}").bundle == A.id
    assert [world.get(f"/predict/{number}").bundle for number in range(20)] == [A.id] * 20
    mirrored = world.upstreams[B.id].requests
    until(lambda: len(mirrored) >= 20, what="20 copies at the candidate")
    assert sorted(mirrored) == sorted(f"/predict/{number}" for number in range(20))


def test_a_user_who_is_in_stays_in(world: World) -> None:
    """As the candidate's share grows, users only ever move towards it; the header decides, else the cookie."""
    world.serve(A, B)
    world.start()
    layer = world.layer()
    users = [f"user-{number}" for number in range(150)]
    before: set[str] = set()
    for revision, share in enumerate((5.0, 20.0, 50.0), start=2):
        wanted = world.desired(revision, A, candidate=B, weights={B.id: share, A.id: 100 - share})
        layer.apply(wanted)
        assert layer.verify(wanted, layer.observe()) is True
        inside = {user for user in users if world.get(x_user_id=user).bundle == B.id}
        assert before <= inside
        before = inside
    assert 0 < len(before) < len(users)
    for user in users[:20]:
        arms = {world.get(Cookie=f"session={user}").bundle for _ in range(3)}
        assert len(arms) == 1
    layer.apply(world.desired(9, A))
    assert {world.get(x_user_id=user).bundle for user in users[:40]} == {A.id}


def test_the_arm_goes_to_the_worker(world: World) -> None:
    """The inference log needs the arm: the worker gets it as a request header."""
    world.serve(A, B)
    world.start()
    world.layer().apply(world.desired(2, A, candidate=B, weights={B.id: 50.0, A.id: 50.0}))
    seen = set()
    for number in range(40):
        reply = world.get(x_user_id=str(number))
        seen.add((reply.bundle, reply.body["headers"]["x-lastgood-arm"]))
    assert seen == {(A.id, "stable"), (B.id, "candidate")}


def test_bad_weights_are_rejected_and_move_nothing(serving: World) -> None:
    """Weights that do not sum to 100 are refused before anything is written."""
    with pytest.raises(base.Rejected, match="sum to 100"):
        serving.layer().apply(serving.desired(4, A, candidate=B, weights={B.id: 50.0}))
    assert (serving.get().bundle, serving.get().revision) == (B.id, 3)

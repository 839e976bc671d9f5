"""Releases that nobody watches, on the whole stack: real Envoy, real workers, a controller of its own that may be killed.

What is measured in seconds stands in `bench`; here nothing depends on how fast the machine is.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench import live_load
from bench.live_project import SERVICE, Faulty
from bench.live_stack import Live
from lastgood import errors, release
from lastgood.layers import reconcile
from tests.integration import live as helpers
from tests.integration.live import CANARY, ENDLESS, FAILS, HANGS, RATE, RETRIED, SHADOW, SLOW, judged_again, looks, once, running, taken_out
from tests.mlflow_template import mlflow_template

__all__ = ["mlflow_template"]

LOCKED_S = 30.0
TOO_FEW = 3
"""So few failures that no gate takes a candidate out for them; the proxy may count one more than the worker."""
pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize(
    ("fault", "gates"),
    [
        pytest.param(FAILS, {"errors", "ejections"}, id="answers 500"),
        pytest.param(HANGS, {"errors", "ejections", "latency"}, id="hangs"),
        pytest.param(SLOW, {"latency"}, id="slow"),
    ],
)
def test_a_bad_candidate_is_taken_out_of_its_canary(tmp_path: Path, fault: dict[str, float], gates: set[str]):
    """It loses its users and is quarantined, a page is there, and nobody but those users noticed anything."""
    with running(tmp_path, {**CANARY, **ENDLESS}) as (live, candidate), live.load(rate=RATE) as load:
        proposed = live.propose(candidate)
        live.until_phase("canary")
        candidate.begin(**fault)
        ended = taken_out(live, candidate, after=proposed)
        assert {verdict["gate"] for verdict in ended.evidence["verdicts"]} <= gates
        assert once(live, after=proposed).reason.startswith("recovered")
        shots = load.end()
        assert helpers.lost(shots, candidate) == []
        assert live_load.failed([shot for shot in shots if shot.revision >= ended.number]) == []
        with pytest.raises(errors.NotAllowed, match="quarantined"):
            release.propose(live.ctx, SERVICE, candidate.bundle, release.Request(actor="test", reason="again"))


def test_a_control_arm_of_equal_size_stands_beside_the_candidate(tmp_path: Path):
    """Both get a quarter of the users; a fault of both arms blames nobody, one of the candidate takes it out; then the arm is gone."""
    with running(tmp_path, {**CANARY, **ENDLESS}, control=True) as (live, candidate), live.load(rate=RATE) as load:
        proposed = live.propose(candidate)
        live.until_phase("canary")
        live.until(lambda: len(looks(live, after=proposed, phase="canary")) >= 8, what="eight looks at both arms")
        told = looks(live, after=proposed, phase="canary")
        seen = [one for row in told for one in row["body"]["observations"].get("split", ())]
        watched, beside = (sum(one[side]["n"] for one in seen) for side in ("watched", "beside"))
        assert 0.6 < watched / max(beside, 1) < 1.6
        candidate.begin(**FAILS)
        ended = taken_out(live, candidate, after=proposed)
        assert once(live, after=proposed).reason.startswith("recovered")
        shots = load.end()
        assert helpers.lost(shots, candidate) == []
        arms = Counter(shot.arm for shot in shots if shot.revision == ended.number - 1)
        assert {"candidate", "control", "stable"} <= set(arms)
        assert {shot.bundle for shot in shots if shot.arm == "control"} == {live.stable.bundle}
        live.until(lambda: set(_workers(live)) == {live.stable.bundle}, what="only stable's own worker is left")


@pytest.mark.parametrize("traffic", [helpers.TRAFFIC, helpers.RETRIED], ids=["asked-once", "retried"])
def test_a_hostile_client_takes_no_healthy_candidate_out(traffic: dict[str, Any], tmp_path: Path):
    """Eighty requests of a client on the candidate that no code could answer, and as many feedbacks: 4xx each, and the release goes on as if nothing had been."""
    with running(tmp_path, {**CANARY, **ENDLESS}, traffic=traffic) as (live, candidate), live.load(rate=RATE) as load:
        proposed = live.propose(candidate)
        live.until_phase("canary")
        port = live.port
        user = next(name for name in (f"hostile-{n}" for n in range(1000)) if _post(port, b'{"x": 0.5}', name)[1] == candidate.bundle)
        bodies = [
            b'{"x": NaN}',
            b'{"x": 1e999}',
            b'{"x": 1' + b"0" * 399 + b"}",
            b'{"x": 1e300}',
            b'{"x": ' + b"[" * 5000,
            b'{"x": 1, "x": 1}',
            b"",
            b"\xff",
        ]
        told = [
            b'{"request_id": "a", "late": NaN}',
            b'{"request_id": "a", "late": 1' + b"0" * 399 + b"}",
            b'{"request_id": "a", "late": "x"}',
        ]
        for number in range(80):
            status, _ = _post(port, bodies[number % len(bodies)], user)
            assert 400 <= status < 500, bodies[number % len(bodies)][:40]
            status, _ = _post(port, told[number % len(told)], user, path="/feedback")
            assert 400 <= status < 500, told[number % len(told)][:40]
        before = len(looks(live, after=proposed, phase="canary"))
        live.until(lambda: len(looks(live, after=proposed, phase="canary")) >= before + 5, what="five looks after that")
        assert _post(port, b'{"x": 0.5}', user) == (200, candidate.bundle)
        assert not _ejected(live)
        state = live.ctx.ledger.state(SERVICE, about=(candidate.bundle,))
        assert (state.phase, state.candidate, candidate.bundle in state.marks) == ("canary", candidate.bundle, False)
        assert live_load.failed(load.end()) == []


def _post(port: int, body: bytes, user: str, *, path: str = "/predict") -> tuple[int, str]:
    """Status, and the bundle that answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("POST", path, body, {"x-user-id": user, "content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheader("x-lastgood-bundle", "")


def _workers(live: Live) -> dict[str, Any]:
    facts: dict[str, Any] = reconcile.build(live.settings, SERVICE)["infrastructure"].observe().facts["workers"]
    return facts


def test_a_candidate_that_fails_in_the_shadow_never_has_a_user(tmp_path: Path):
    """Its answers to copies are enough to take it out; no user got one of its answers, and no request failed."""
    with running(tmp_path, SHADOW, CANARY) as (live, candidate), live.load(rate=RATE) as load:
        candidate.begin(**FAILS)
        proposed = live.propose(candidate)
        taken_out(live, candidate, after=proposed)
        shots = load.end()
        assert live_load.failed(shots) == []
        assert {shot.bundle for shot in shots} == {live.stable.bundle}


def test_a_good_candidate_becomes_stable_by_itself(tmp_path: Path):
    """Shadow, canary, cut-over and bake pass one after the other, no request fails, and every step names its verdicts."""
    with running(tmp_path, SHADOW, CANARY) as (live, candidate), live.load(rate=RATE) as load:
        proposed = live.propose(candidate)
        ended = live.until_verb(proposed, "bake-ended", "rollback", "abandon", "hold", within_s=2 * helpers.LONG_S)
        assert ended is not None, helpers.standing(live)
        assert [one.verb for one in live.since(proposed)] == ["advance", "advance", "cut-over", "bake-ended"]
        canary, cut_over = live.since(proposed, "advance", "cut-over")[1:]
        for step in (canary, cut_over):
            assert {verdict["outcome"] for verdict in step.evidence["verdicts"]} == {"pass"}
        assert live.state().stable == candidate.bundle
        live.until(live.all_stable, what="traffic on the new stable bundle")
        assert live_load.failed(load.end()) == []


# --- the controller dies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["shadow", "canary"])
def test_a_controller_killed_in_the_middle_comes_to_the_same_verdict(tmp_path: Path, phase: str):
    """What was measured before counts after the restart; who replays the ledger finds the verdict; there is one step back."""
    chain = {"shadow": [{**SHADOW, **ENDLESS}, CANARY], "canary": [{**CANARY, **ENDLESS}]}[phase]
    with running(tmp_path, *chain) as (live, candidate), live.load(rate=RATE):
        proposed = live.propose(candidate)
        live.until_phase(phase)
        # The first look only notes where the counters stand.
        live.until(lambda: looks(live, after=proposed, phase=phase), what="first look")
        candidate.begin(first=TOO_FEW)
        live.until(lambda: _failures(live, proposed, phase) >= TOO_FEW, what="failures in the ledger")
        live.kill_controller()
        assert live.state().phase == phase, live.since(proposed)[-1].reason
        before = looks(live, after=proposed, phase=phase)
        candidate.begin(errors=0.2)
        live.start_controller()
        ended = taken_out(live, candidate, after=proposed)
        after = looks(live, after=proposed, phase=phase)
        assert after[: len(before)] == before
        assert [row["seq"] for row in after] == list(range(1, len(after) + 1))
        _check_judged_the_same(live, candidate, proposed)
        assert ended.number == live.since(proposed, "rollback")[0].number


def test_a_controller_killed_right_after_its_verdict_steps_back_once(tmp_path: Path):
    """The commit is all that counts: the next controller moves the traffic, pages, and does not step back again."""
    with running(tmp_path, {**CANARY, **ENDLESS}) as (live, candidate), live.load(rate=RATE):
        live.kill_controller()
        # Its first commit begins the canary, its second is the verdict.
        live.start_controller(failing="release.after_append=kill@2")
        proposed = live.propose(candidate)
        live.until_phase("canary")
        candidate.begin(**FAILS)
        live.until(lambda: live.controller() is None, what="end of the controller")
        assert [one.verb for one in live.since(proposed)] == ["advance", "rollback"]
        assert helpers.pages(live, candidate) == []
        live.start_controller()
        taken_out(live, candidate, after=proposed)
        assert once(live, after=proposed).reason.startswith("recovered")
        assert len(helpers.pages(live, candidate)) == 1


def test_with_the_control_plane_dead_the_proxy_holds_the_line(tmp_path: Path):
    """Envoy puts a failing candidate out by itself; the next controller finds that in the log and makes it final."""
    with running(tmp_path, {**CANARY, **ENDLESS}) as (live, candidate):
        proposed = live.propose(candidate)
        live.until_phase("canary")
        live.kill_controller()
        candidate.begin(**FAILS)
        with live.load(rate=RATE, name="before") as load:
            live.until(lambda: _ejected(live), what="ejection")
            assert helpers.lost(load.end(), candidate) == []
        with live.load(rate=RATE, name="after") as load:
            time.sleep(2)  # traffic to look at, not time to wait for
            shots = load.end()
        assert live_load.failed(shots) == []
        assert {shot.bundle for shot in shots} == {live.stable.bundle}
        assert live.state().phase == "canary"
        with live.load(rate=RATE):
            live.start_controller()
            ended = taken_out(live, candidate, after=proposed)
            told = {verdict["gate"]: verdict["cause"] for verdict in ended.evidence["verdicts"]}
            assert told["ejections"] == "events"


# --- other things break ------------------------------------------------------------------------------------


def test_a_locked_ledger_costs_no_request(tmp_path: Path):
    """For half a minute nobody can write it, while a candidate fails: every request is answered, and the verdict comes after it."""
    with running(tmp_path, {**CANARY, **ENDLESS}, traffic=RETRIED) as (live, candidate), live.load(rate=RATE) as load:
        proposed = live.propose(candidate)
        live.until_phase("canary")
        other = sqlite3.connect(live.settings.home / "ledger.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        candidate.begin(**FAILS)
        time.sleep(LOCKED_S)
        assert live.since(proposed, "rollback") == []
        other.execute("ROLLBACK")
        other.close()
        taken_out(live, candidate, after=proposed)
        assert live_load.failed(load.end()) == []


def test_an_alias_pointed_at_the_quarantined_bundle_is_put_back(tmp_path: Path, mlflow_template: Path):
    """Somebody makes it `stable` in MLflow after it was taken out: traffic does not care, and the alias is put back."""
    with running(tmp_path, {**SHADOW, **ENDLESS}, CANARY, mlflow=mlflow_template) as (live, candidate), live.load(rate=RATE) as load:
        live.until(lambda: _aliases(live).get("stable") == live.stable.bundle, what="alias", within_s=2 * helpers.LONG_S)
        proposed = live.propose(candidate)
        live.until(lambda: _aliases(live).get("candidate") == candidate.bundle, what="alias of the candidate")
        candidate.begin(**FAILS)
        taken_out(live, candidate, after=proposed)
        _point_stable_at(live, candidate)
        live.until(lambda: _aliases(live).get("stable") == live.stable.bundle, what="alias put back")
        assert {shot.bundle for shot in load.end()} == {live.stable.bundle}


def _failures(live: Live, proposed: int, phase: str) -> int:
    seen = [one for row in looks(live, after=proposed, phase=phase) for one in row["body"]["observations"].get("errors", [])]
    return sum(one["watched"].get("bad", 0) for one in seen)


def _check_judged_the_same(live: Live, candidate: Faulty, proposed: int) -> None:
    ended = live.since(proposed, "rollback")[0]
    again = judged_again(live, candidate, ended)
    for verdict in ended.evidence["verdicts"]:
        assert json.loads(json.dumps(again[verdict["gate"]].to_json())) == verdict


def _ejected(live: Live) -> bool:
    layer = reconcile.build(live.settings, SERVICE)["traffic"]
    try:
        return bool(layer.observe().facts["ejected"])
    finally:
        layer.close()


def _aliases(live: Live) -> dict[str, str]:
    with sqlite3.connect(live.settings.home / "mlflow.db") as connection:
        found = connection.execute(
            "select a.alias, t.value from registered_model_aliases a join model_version_tags t"
            " on t.name = a.name and t.version = a.version and t.key = 'lastgood.bundle' where a.name = ?",
            [SERVICE],
        ).fetchall()
    connection.close()
    return dict(found)


def _point_stable_at(live: Live, candidate: Faulty) -> None:
    """What a person does on MLflow's page."""
    with sqlite3.connect(live.settings.home / "mlflow.db", timeout=30) as connection:
        moved = connection.execute(
            "update registered_model_aliases set version = (select version from model_version_tags where key = 'lastgood.bundle'"
            " and value = ? and name = ?) where name = ? and alias = 'stable'",
            [candidate.bundle, SERVICE, SERVICE],
        )
    connection.close()
    assert moved.rowcount == 1
    assert _aliases(live)["stable"] == candidate.bundle

"""A worker leaves by what it has to answer, not by the clock alone; what a kill cut off is known, or known to be unknown."""

import json
import os
import tempfile

import pytest

from lastgood.cli import outcome
from lastgood.layers import base, receipts, reconcile
from lastgood.layers.infrastructure.local import drain, in_flight, warm_ups
from lastgood.system import processes
from tests.layers.infrastructure.conftest import A, B

SAID_S = 20
"""`timeout_s` of the fake worker."""


def left(world, words):
    """The pid of B's worker that does as *words* say, and the state in which nobody wants it; it was asked to end just now."""
    world.behave(B, words)
    world.layer.apply(world.desired(stable=A, candidate=B))
    pid = world.worker(B)["pid"]
    desired = world.desired(stable=A)
    world.layer.apply(desired)
    world.offset_s += 10
    world.layer.apply(desired)
    return pid, desired


def test_a_worker_with_requests_lives_as_long_as_they_may_take(world):
    """It is killed ten seconds after the longest time of a request, by its own word; the receipt says how many that cut off."""
    pid, desired = left(world, "holds 2")
    world.until(lambda: [one["requests"] for one in world.layer.observe().facts["leaving"]] == [2])
    world.offset_s += SAID_S + drain.MARGIN_S - 2
    assert world.converged(desired) is True
    world.layer.apply(desired)
    assert processes._started(pid) is not None
    world.offset_s += 2
    assert world.converged(desired) is False
    receipt = reconcile.attempt(world.layer, desired)
    assert processes._started(pid) is None
    found = receipts.requests(receipt, since=desired.revision)
    assert (found.known, found.leaving) == (True, ())
    assert [cut["requests"] for cut in found.cut_off] == [2]
    assert outcome.requests_lines(found, service="demo", changed=True) == [
        "  ! the worker of bbbbbbbbbbbb was killed with 2 requests unanswered"
    ]
    assert receipts.requests(receipt, since=desired.revision + 1).cut_off == (), "of a later change it is no fault"


def test_a_worker_that_owes_nobody_an_answer_is_not_waited_for(world):
    """With nothing left it has ten seconds to end; that cuts nothing off."""
    pid, desired = left(world, "holds 0")
    world.until(lambda: [one["requests"] for one in world.layer.observe().facts["leaving"]] == [0])
    world.offset_s += drain.MARGIN_S
    world.layer.apply(desired)
    assert processes._started(pid) is None
    assert world.layer.observe().facts["cut_off"] == []


def test_the_receipt_of_the_change_says_how_many_are_in_flight(world):
    """While traffic has just moved, the worker that is left says how many it still answers."""
    world.behave(B, "holds 3")
    world.layer.apply(world.desired(stable=A, candidate=B))
    desired = world.desired(stable=A)
    found = receipts.requests(reconcile.attempt(world.layer, desired), since=desired.revision)
    assert (found.known, [one["requests"] for one in found.leaving]) == (True, [3])
    assert "still answers its 3 requests in flight" in outcome.requests_lines(found, service="demo", changed=True)[0]


@pytest.mark.parametrize("facts", [None, {}, {"workers": {}}, {"leaving": "?", "workers": {}}])
def test_nothing_is_claimed_without_facts(facts):
    """A layer that failed, or one of somebody else's, says nothing of requests: then nobody says that none was cut off."""
    told = None
    if facts is not None:
        told = receipts.Receipt(
            layer="infrastructure", status="converged", desired_revision=1, observed_revision=1, ms=1, at=1, facts=facts
        )
    found = receipts.requests(told, since=1)
    assert found.known is False
    assert "not known yet" in outcome.requests_lines(found, service="demo", changed=True)[0]


def test_down_gives_requests_their_time(world):
    """`down` waits for what workers have to answer, as long as it may take; then it kills, and says what that cut off."""
    world.behave(A, "holds 1")
    world.layer.apply(world.desired(stable=A))
    began = world.clock()
    draining = world.settings.run("demo") / "workers" / "draining"

    def clock():
        if list(draining.glob("*.json")):  # the worker has said what it has; from then on each look finds it five seconds later
            world.offset_s += 5
        return world.clock()

    world.layer._clock = clock
    assert world.layer.shut_down() == f"the worker of {'a' * 12} was killed with 1 request unanswered"
    assert world.clock() - began >= SAID_S + drain.MARGIN_S
    world.layer._clock = world.clock


def test_a_worker_that_is_wanted_again_gets_another_process_beside_the_one_that_leaves(world):
    """A bundle that is promoted again while its old worker still answers does not wait for it, and does not cut it off."""
    pid, _ = left(world, "holds 1")
    world.behave(B, "")
    desired = world.desired(stable=A, candidate=B)
    world.layer.apply(desired)
    assert world.converged(desired) is True
    assert world.worker(B)["pid"] != pid
    assert processes._started(pid) is not None


def test_a_worker_may_take_the_longest_time_to_get_ready(world):
    """`ready_timeout_s` is an hour at most, and nothing gives a worker up before that."""
    world.ready_timeout_s = 3600.0
    world.behave(B, "never")
    desired = world.desired(stable=A, candidate=B)
    layer = world.make(patience_s=0.1)
    world.until(lambda: layer.apply(desired) or world.worker(A)["ready"])
    world.until(lambda: world.worker(B)["pid"])
    pid = world.worker(B)["pid"]
    world.offset_s += 3590
    layer.apply(desired)
    assert world.worker(B)["pid"] == pid
    world.offset_s += 20
    with pytest.raises(base.LayerError, match="was not ready within 3600 s"):
        layer.apply(desired)


def test_a_count_that_cannot_be_written_is_not_left_behind(tmp_path, monkeypatch):
    """An old number would be taken for the truth, so there is none."""
    counted = in_flight.InFlight()
    file = in_flight.file_of(tmp_path, 7)
    counted.begin(copy=False)
    counted.write_to(file)
    counted.begin(copy=True)
    assert in_flight.read(file) == in_flight.Left(1, 1)
    counted.end(copy=False)
    assert in_flight.read(file) == in_flight.Left(0, 1)
    monkeypatch.setattr(tempfile, "mkstemp", lambda **_: os.open(tmp_path / "no" / "such", os.O_RDONLY))
    counted.begin(copy=False)
    assert in_flight.read(file) == in_flight.Left(None, None)


def test_warm_ups_are_remembered_when_the_worker_is_gone(world):
    """What a plan knows of a bundle that does not run: how long its warm-up took when it did."""
    world.layer.apply(world.desired(stable=A))
    world.layer.observe()
    run = world.settings.run("demo")
    assert warm_ups.read(run, A) == 0.5
    assert warm_ups.read(run, B) is None
    (run / "warm-ups.list").write_text(json.dumps([1]))
    assert warm_ups.read(run, A) is None

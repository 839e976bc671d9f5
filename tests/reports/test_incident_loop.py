"""The reader of the ledger that writes incident records: of every rollback, once, whoever committed it and whoever died."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastgood import errors, release
from lastgood.reports import incident, incident_loop
from tests.reports import story as stories
from tests.reports.story import SERVICE, Story


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    """A project with one service and steady traffic."""
    with stories.begun(tmp_path) as begun:
        yield begun


def reader(story: Story) -> incident_loop.IncidentLoop:
    """One that has seen nothing yet, as after its start."""
    return incident_loop.IncidentLoop(story.ctx.settings, clock=story.clock)


def written(story: Story) -> list[dict[str, Any]]:
    """The records in the audit trail."""
    return story.ctx.ledger.notes(SERVICE, kind="incident")


def wait(story: Story) -> None:
    """Past the time for which a record waits for the note of the layers."""
    story.now += incident_loop.RECEIPT_S + 1


def released_twice(story: Story) -> tuple[str, str]:
    """Two proven bundles, the second of them stable."""
    first = story.first()
    second = story.propose(2.0, chain=())
    story.go_on(until="bake-ended")
    return first, second


def test_a_rollback_before_the_reader_began_is_found(story: Story) -> None:
    """Whoever committed it is dead by then: the record is written all the same, into the trail and as a file, and only once."""
    _, bad = stories.taken_out(story)
    wait(story)
    for _ in range(2):
        found = reader(story)
        for _ in range(2):
            found.turn(story.ctx)
    (record,) = written(story)
    assert (record["bad_bundle"], record["verification"]["outcome"]) == (bad, "recovered")
    assert json.loads(incident.file_of(story.ctx.settings.home, SERVICE, record["rollout"]).read_text("utf-8")) == record


def test_a_rollback_by_hand_is_recorded_once_it_was_verified(story: Story) -> None:
    """As by a command or a job: nothing but the ledger says that it was there."""
    _, second = released_twice(story)
    found = reader(story)
    found.turn(story.ctx)
    release.roll_back(story.ctx, SERVICE, release.Request(actor="bob", reason="customers complain"))
    wait(story)
    found.turn(story.ctx)
    assert written(story) == []
    story.go_on(until="verified", seconds=400)
    wait(story)
    found.turn(story.ctx)
    (record,) = written(story)
    assert (record["bad_bundle"], record["decided"]["actor"]) == (second, "bob")


def test_of_two_readers_one_writes_and_the_other_takes_over(story: Story) -> None:
    """The lease says which; when the first is gone for long enough the second goes on."""
    released_twice(story)
    first, second = reader(story), reader(story)
    assert story.ctx.ledger.lease(incident_loop.LEASE, holder="another host", now=story.now, ttl_s=incident_loop.LEASE_S)
    release.roll_back(story.ctx, SERVICE, release.Request(actor="bob", reason="bad"))
    story.go_on(until="verified", seconds=400)
    wait(story)
    first.turn(story.ctx)
    story.ctx.ledger.lease(incident_loop.LEASE, holder="another host", now=story.now, ttl_s=incident_loop.LEASE_S)
    first.turn(story.ctx)
    assert len(written(story)) <= 1
    story.now += incident_loop.LEASE_S + 1
    for each in (first, second):
        each.turn(story.ctx)
    assert len(written(story)) == 1


def test_a_rollback_that_another_one_follows_before_it_was_verified_is_recorded_too(story: Story) -> None:
    """Nobody will ever say whether it helped; both rollouts have their record."""
    released_twice(story)
    story.propose(3.0, chain=())
    story.go_on(until="bake-ended")
    for _ in range(2):
        story.now += 700
        release.roll_back(story.ctx, SERVICE, release.Request(actor="bob", reason="bad"))
    story.go_on(until="verified", seconds=400)
    wait(story)
    reader(story).turn(story.ctx)
    assert len({record["rollout"] for record in written(story)}) == len(written(story)) == 2


def test_a_record_waits_for_the_note_of_how_long_traffic_took(story: Story) -> None:
    """Of a candidate that no user met nothing is measured afterwards, so the note is all there is to wait for."""
    good = story.first()
    bad = story.propose(2.0)
    story.traffic.bad = {good: 0.001, bad: 0.5}
    story.go_on(until="rollback")
    found = reader(story)
    found.turn(story.ctx)
    assert written(story) == []
    body = {"revision": story.state().revision, "commit_ms": 2.0, "traffic_ms": 7.5, "layers": {"traffic": "converged"}}
    story.ctx.ledger.note(SERVICE, kind="receipt", body=body, actor="controller", now=story.now)
    found.turn(story.ctx)
    assert written(story)[0]["seconds"]["verdict_to_traffic"] == pytest.approx(0.0075, abs=1e-5)


def test_what_cannot_be_written_is_tried_again(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told in the log, and the loop goes on; after a while the record is there."""
    stories.taken_out(story)
    wait(story)
    found = reader(story)
    with monkeypatch.context() as patch:
        patch.setattr(incident, "close", _full)
        found.turn(story.ctx)
    found.turn(story.ctx)
    assert written(story) == []
    monkeypatch.setattr(incident_loop.time, "monotonic", lambda: float("inf"))
    found.turn(story.ctx)
    assert len(written(story)) == 1


def _full(*_: object, **__: object) -> None:
    raise errors.Unavailable("the disk is full; make room")


def test_what_ends_nothing_has_no_record(story: Story) -> None:
    """Releases that went well leave no trace."""
    released_twice(story)
    wait(story)
    reader(story).turn(story.ctx)
    assert written(story) == []

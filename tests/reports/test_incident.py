"""The record of a rollout that was taken back: what is in it, and that it is kept once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastgood import errors, release
from lastgood.ledger import audit
from lastgood.reports import incident, record
from tests.reports import story as stories
from tests.reports.story import SERVICE, Story


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    """A project with one service and steady traffic."""
    with stories.begun(tmp_path) as begun:
        yield begun


def notes(story: Story) -> list[dict[str, object]]:
    """The incidents in the audit trail."""
    return record.notes(story.ctx.ledger, SERVICE, "incident", since=0)


def test_an_incident_says_what_when_how_long_and_how_many(story: Story) -> None:
    """Bundles, onset, verdict, decision, requests, pages and the verification, each as the ledger has it."""
    good, bad = stories.taken_out(story)
    told = record.collect(story.ctx, SERVICE, clock=story.clock)
    body = {"revision": 7, "commit_ms": 2.0, "traffic_ms": 7.5, "layers": {"traffic": "converged"}}
    story.ctx.ledger.note(SERVICE, kind="receipt", body=body, actor="controller", now=story.now)
    value = incident.incident_record(record.collect(story.ctx, SERVICE, clock=story.clock))
    assert (value["schema"], value["service"], value["rollout"], value["outcome"]) == ("lastgood.incident/v1", SERVICE, 4, "taken out")
    assert (value["bad_bundle"], value["good_bundle"]) == (bad, good)
    assert (value["decided"]["revision"], value["decided"]["automatic"], value["decided"]["verb"]) == (7, True, "rollback")
    assert value["detected_at"] == told.ending.at  # type: ignore[union-attr]
    seconds = value["seconds"]
    assert 1 <= seconds["onset_to_verdict"] <= 10
    assert seconds["verdict_to_traffic"] == pytest.approx(0.0075, abs=1e-5)
    assert seconds["onset_to_traffic"] == pytest.approx(seconds["onset_to_verdict"] + 0.0075, abs=1e-5)
    assert (value["requests"]["answered"], value["requests"]["failed"]) == (told.requests[bad].answered, told.requests[bad].failed)
    assert (value["verdict"]["gate"], value["verdict"]["outcome"]) == ("errors", "fail")
    assert [(page["severity"], page["key"]) for page in value["pages"]] == [("warning", "rollout-4"), ("info", "rollout-4")]
    assert (value["verification"]["outcome"], value["verification"]["revision"]) == ("recovered", 8)
    assert value["not_undone"]
    json.dumps(value, allow_nan=False)


def test_closing_an_incident_keeps_it_once_in_the_audit_trail_and_as_a_file(story: Story) -> None:
    """However often it is closed, by the way back or by the verification: one note, one file, and both say the same."""
    stories.taken_out(story)
    first = incident.close(story.ctx, SERVICE, 8, clock=story.clock)
    file = incident.file_of(story.ctx.settings.home, SERVICE, 4)
    assert json.loads(file.read_text("utf-8")) == first
    story.now += 100
    assert incident.close(story.ctx, SERVICE, 7, clock=story.clock) == first
    assert incident.close(story.ctx, SERVICE, 8, clock=story.clock) == first
    assert notes(story) == [first]
    assert audit.verify(story.ctx.ledger, SERVICE, story.ctx.settings.keys).ok


def test_a_lost_file_comes_back_from_the_audit_trail(story: Story) -> None:
    """The trail is the record, the file a copy."""
    stories.taken_out(story)
    first = incident.close(story.ctx, SERVICE, 8, clock=story.clock)
    file = incident.file_of(story.ctx.settings.home, SERVICE, 4)
    text = file.read_text("utf-8")
    file.unlink()
    story.ctx.ledger.forget_measurements(SERVICE, before=story.now + 1)
    assert incident.close(story.ctx, SERVICE, 8, clock=story.clock) == first
    assert file.read_text("utf-8") == text


def test_an_incident_is_not_closed_before_it_is_known_whether_the_way_back_helped(story: Story) -> None:
    """While that is measured there is nothing to keep."""
    good = story.first()
    bad = story.propose(2.0)
    story.traffic.bad = {good: 0.001, bad: 0.5}
    while story.state().weight_pct == 0:
        story.traffic.bad[bad] = 0.001
        story.look()
    story.traffic.bad[bad] = 0.5
    story.go_on(until="rollback")
    number = story.ctx.ledger.newest(SERVICE)
    assert story.state().verifying is not None
    assert incident.close(story.ctx, SERVICE, number, clock=story.clock) is None
    story.go_on(until="verified")
    assert incident.close(story.ctx, SERVICE, number + 1, clock=story.clock) is not None


def test_what_ends_nothing_is_no_incident(story: Story) -> None:
    """A proposal, a step forward, a cut-over, a bake that ended: None, and nothing is kept."""
    story.first()
    story.propose(2.0)
    story.go_on(until="bake-ended")
    for number in range(1, story.ctx.ledger.newest(SERVICE) + 1):
        assert incident.close(story.ctx, SERVICE, number, clock=story.clock) is None
    assert notes(story) == []
    with pytest.raises(errors.NothingToDo, match="was not rolled back"):
        incident.write(story.ctx, SERVICE, record.collect(story.ctx, SERVICE, clock=story.clock), clock=story.clock)


def test_a_candidate_that_no_user_met_is_an_incident_at_once(story: Story) -> None:
    """Taken out of the shadow: nothing is measured afterwards, so the way back itself closes it."""
    good = story.first()
    bad = story.propose(2.0)
    story.traffic.bad = {good: 0.001, bad: 0.5}
    story.go_on(until="rollback")
    value = incident.close(story.ctx, SERVICE, story.ctx.ledger.newest(SERVICE), clock=story.clock)
    assert value is not None
    assert (value["bad_bundle"], value["requests"]["answered"], value["verification"]) == (bad, 0, None)
    assert value["requests"]["mirrored"] > 0


def test_a_rollback_by_a_person_long_after_the_release_names_the_rollout_that_brought_the_bundle(story: Story) -> None:
    """Between them lie another, failed release and a hold; the incident is that of the bundle that was left."""
    first = story.first()
    second = story.propose(2.0, chain=())
    story.go_on(until="bake-ended")
    brought = told = record.newest(story.ctx.ledger, SERVICE)
    third = story.propose(3.0)
    story.traffic.bad = {third: 0.5}
    story.go_on(until="rollback")
    story.now += 5000
    release.hold(story.ctx, SERVICE, release.Request(actor="ann", reason="freeze"))
    release.roll_back(story.ctx, SERVICE, release.Request(actor="bob", reason="customers complain"))
    number = story.ctx.ledger.newest(SERVICE)
    story.now += 400
    story.go_on(until="verified", seconds=400)
    value = incident.close(story.ctx, SERVICE, number + 1, clock=story.clock)
    assert value is not None
    assert (value["rollout"], value["bad_bundle"], value["good_bundle"]) == (brought, second, first)
    assert (value["decided"]["actor"], value["decided"]["automatic"], value["verdict"], told) == ("bob", False, None, brought)


def test_closing_raises_nothing_but_our_own_errors(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever breaks inside is one of ours outside, with the way to look at it; an unwritable folder is said to be that."""
    stories.taken_out(story)
    (story.ctx.settings.home / "incidents").write_text("in the way")
    with monkeypatch.context() as patch:
        patch.setattr(record, "collect", lambda *_, **__: {}["surprise"])
        with pytest.raises(errors.LastgoodError, match=r"KeyError.*lastgood report toy"):
            incident.close(story.ctx, SERVICE, 8, clock=story.clock)
    with pytest.raises(errors.Unavailable, match="the audit trail has the record"):
        incident.close(story.ctx, SERVICE, 8, clock=story.clock)
    with pytest.raises(errors.NotFound):
        incident.close(story.ctx, SERVICE, 99, clock=story.clock)

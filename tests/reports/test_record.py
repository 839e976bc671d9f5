"""What is known of a rollout: which revisions are its own, what was measured, since when the fault showed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lastgood import errors, release
from lastgood.analysis import run as analysis_run
from lastgood.core.events import Reject
from lastgood.gates import base
from lastgood.gates import gate as gate_run
from lastgood.layers import receipts
from lastgood.release import advance
from lastgood.reports import changepoint, latency, record, wording
from lastgood.reports import evidence as report_evidence
from lastgood.service import gates as service_gates
from tests.reports import story as stories
from tests.reports.story import SERVICE, Story

BRIEF = stories.strategy.parse([{"phase": "canary", "weight_pct": 20, "min_s": 10, "max_s": 300}])


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    """A project with one service and steady traffic."""
    with stories.begun(tmp_path) as begun:
        yield begun


def told(story: Story, rollout: int | None = None) -> record.RolloutRecord:
    """What is known of the rollout now."""
    return record.collect(story.ctx, SERVICE, rollout=rollout, clock=story.clock)


def test_a_candidate_that_a_gate_took_out_is_told_from_its_proposal_to_its_verification(story: Story) -> None:
    """Its revisions and no others; who had the traffic when; the verdict that decided; what came afterwards."""
    good, bad = stories.taken_out(story)
    found = told(story)
    assert [revision.verb for revision in found.revisions] == ["promote", "advance", "advance", "rollback", "verified"]
    assert (found.outcome, found.left, found.good, found.stable) == ("taken out", bad, good, good)
    assert [(segment.phase, segment.shares.get(bad, 0.0), segment.mirror_pct) for segment in found.segments[:4]] == [
        ("preparing", 0.0, 0.0),
        ("shadow", 0.0, 100.0),
        ("canary", 5.0, 0.0),
        ("verifying", 0.0, 0.0),
    ]
    assert all(before.end == after.start for before, after in zip(found.segments, found.segments[1:], strict=False))
    assert found.fired is not None
    assert (found.fired.gate, found.fired.outcome, found.fired.cause) == ("errors", "fail", "sequential")
    assert [analysis.kind for analysis in found.analyses] == ["shadow", "canary", "verify"]
    assert found.analyses[1].trails["errors"].verdict == found.fired
    assert wording.headline(found).startswith(f"{bad[7:19]} was taken out automatically before its cut-over, ")
    assert wording.afterwards(found).startswith("recovered: ")
    assert found.missing == ()


def test_the_onset_is_when_the_fault_began(story: Story) -> None:
    """The candidate begins to fail 15 s into the canary; the evidence says so to the second or two."""
    good = story.first()
    bad = story.propose(2.0)
    story.traffic.bad = {good: 0.005, bad: 0.005}
    while story.state().weight_pct == 0:
        story.look()
    story.go_on(seconds=15)
    began = story.now
    story.traffic.bad[bad] = 0.3
    story.go_on(until="rollback")
    found = told(story)
    assert found.onset is not None
    assert began - 2 <= found.onset <= began + 1


def test_requests_are_summed_by_bundle_and_copies_stand_apart(story: Story) -> None:
    """Users' requests of the canary, failed ones of them, and copies from the shadow, as the traffic really was."""
    good, bad = stories.taken_out(story)
    found = told(story)
    canary = found.analyses[1]
    assert found.requests[bad].mirrored == found.analyses[0].trails["errors"].watched.n > 0
    assert (
        found.requests[bad].answered == canary.trails["errors"].watched.n == round((found.revisions[3].at - found.revisions[2].at - 1) * 5)
    )
    assert found.requests[bad].failed == canary.trails["errors"].watched.bad > 0
    assert found.requests[good].failed >= canary.trails["errors"].beside.bad  # type: ignore[union-attr]
    stretches = canary.trails["errors"].stretches
    assert sum(one.watched.n for one in stretches) == found.requests[bad].answered


def test_a_release_that_went_well_ends_with_its_bake(story: Story) -> None:
    """Released; every phase has an analysis; the bake is judged alone."""
    story.first()
    fine = story.propose(2.0)
    story.go_on(until="bake-ended")
    found = told(story)
    assert (found.outcome, found.left, found.good, found.fired, found.onset) == ("released", None, fine, None, None)
    assert [analysis.kind for analysis in found.analyses] == ["shadow", "canary", "bake"]
    assert found.analyses[-1].mode == "alone"
    assert found.segments[-2].shares == {fine: 100.0}
    assert found.ended == found.revisions[-1].at


def test_while_it_is_under_way_the_standing_verdicts_are_told(story: Story) -> None:
    """No ending; the verdicts are those of the analysis that goes on; the last stretch of time ends now."""
    story.first()
    story.propose(2.0)
    story.go_on(seconds=12)
    found = told(story)
    assert (found.outcome, found.ending, found.left) == ("under way", None, None)
    assert {verdict.gate for verdict in found.decided} == {"errors", "latency", "oom"}
    assert found.segments[-1].end == story.now
    assert "has been in progress for 12 s: shadow" in wording.headline(found)


def test_a_bundle_that_fails_after_its_cut_over_is_rolled_back(story: Story) -> None:
    """The fault is found in the bake; the outcome is another word, and requests of the bake count."""
    good = story.first()
    bad = story.propose(2.0, chain=BRIEF)
    story.traffic.bad = {good: 0.001, bad: 0.001}
    story.go_on(until="cut-over")
    story.traffic.bad[bad] = 0.6
    story.go_on(until="rollback")
    found = told(story)
    assert (found.outcome, found.left, found.good) == ("rolled back", bad, good)
    assert found.fired is not None
    assert found.fired.gate == "errors"
    assert found.requests[bad].answered > found.analyses[0].trails["errors"].watched.n
    assert found.onset is not None


def test_a_release_that_a_person_stops_has_no_gate_to_name(story: Story) -> None:
    """Taken out by a person: blamed, for a reason, without a verdict."""
    good = story.first()
    bad = story.propose(2.0)
    story.go_on(seconds=5)
    release.roll_back(story.ctx, SERVICE, release.Request(actor="bob", reason="the texts are rude"), to=good)
    found = told(story)
    assert (found.outcome, found.left, found.fired) == ("taken out", bad, None)
    assert wording.headline(found).endswith("the texts are rude")
    assert "by bob" in wording.headline(found)
    assert "not measured" in wording.afterwards(found)


def test_a_release_that_never_got_ready_was_given_up(story: Story) -> None:
    """Nobody is blamed."""
    story.first()
    story.propose(2.0)
    story.now += 100
    advance.advance(story.ctx, SERVICE, ready=set(), actor="controller")
    found = told(story)
    assert (found.outcome, found.left) == ("given up", None)
    assert "the bundle is not blamed" in wording.headline(found)


def test_a_release_that_a_rollback_of_stable_cancels_was_called_off(story: Story) -> None:
    """The candidate in shadow is not to blame for what stable did."""
    first = story.first()
    second = story.propose(2.0, chain=())
    story.go_on(until="bake-ended")
    story.propose(3.0)
    story.go_on(seconds=5)
    release.roll_back(story.ctx, SERVICE, release.Request(actor="bob", reason="stable is bad"))
    found = told(story)
    assert (found.outcome, found.left, found.stable, found.good) == ("called off", None, second, first)


def test_a_proven_bundle_that_is_left_later_is_told_with_the_time_just_before(tmp_path: Path) -> None:
    """A trigger finds the fault a day after the bake: the day is left out, the way back and its verification are not."""
    gates = stories.GATES.replace("min_samples: 100}", "min_samples: 100, watch: always}", 1)
    with stories.begun(tmp_path, gates=gates) as story:
        good = story.first()
        bad = story.propose(2.0, chain=BRIEF)
        story.traffic.bad = {good: 0.001, bad: 0.001}
        story.go_on(until="bake-ended")
        story.go_on(seconds=20)
        story.now += 86_400
        story.traffic.bad[bad] = 0.6
        story.go_on(until="rollback")
        story.go_on(until="verified")
        found = told(story)
    assert (found.outcome, found.left, found.good) == ("rolled back", bad, good)
    assert [revision.verb for revision in found.revisions] == ["promote", "advance", "cut-over", "bake-ended", "rollback", "verified"]
    assert found.ended - found.began < 2 * record.GAP_S
    watch = next(analysis for analysis in found.analyses if analysis.kind == "watch")
    assert watch.trails["errors"].verdict.outcome == "fail"
    assert found.onset is not None


def test_two_rollouts_do_not_mix(story: Story) -> None:
    """A rollout is named by the revision that proposed it; the newest one is taken if none is named."""
    stories.taken_out(story)
    first = story.ctx.ledger.newest(SERVICE)
    fine = story.propose(3.0)
    story.go_on(until="bake-ended")
    assert told(story).candidate == fine
    assert told(story, rollout=4).revisions[-1].number == first
    with pytest.raises(errors.NotFound, match="proposed no rollout"):
        told(story, rollout=5)
    with pytest.raises(errors.NotFound, match="never been released"):
        record.collect(story.ctx, "nobody", clock=story.clock)


def test_without_measurements_the_verdicts_of_the_revisions_are_left(story: Story) -> None:
    """Measurements that were removed are said to be missing; who decided on what is still known."""
    stories.taken_out(story)
    story.ctx.ledger.forget_measurements(SERVICE, before=story.now + 1)
    found = told(story)
    assert all(analysis.rows == 0 for analysis in found.analyses)
    assert any("no measurements" in what for what in found.missing)
    assert found.fired is not None
    assert found.fired.gate == "errors"
    assert found.requests == {}


def test_without_the_store_the_rest_is_told(story: Story) -> None:
    """The configuration that says how it was judged cannot be read: that is said, and the release log is told."""
    stories.taken_out(story)
    story.ctx.settings.store.rename(story.ctx.settings.home / "elsewhere")
    (story.ctx.settings.services / SERVICE / "service.yaml").unlink()
    found = told(story)
    assert len(found.revisions) == 5
    assert any(what.startswith("gates: ") for what in found.missing)


def test_layers_are_told_by_the_receipt_and_by_the_audit_trail(story: Story) -> None:
    """A command's receipt says how fast the traffic followed; a layer's own file only that it had by then."""
    stories.taken_out(story)
    ending = told(story).ending
    assert ending is not None
    folder = story.ctx.settings.run(SERVICE) / "layers"
    at = {"desired_revision": ending.number, "observed_revision": ending.number, "ms": 3.0, "at": ending.at + 2}
    receipts.write(folder, receipts.Receipt(layer="registry", status="converged", **at))
    receipts.write(folder, receipts.Receipt(layer="traffic", status="converged", **at))
    body = {"revision": ending.number, "commit_ms": 2.0, "traffic_ms": 7.5, "layers": {"traffic": "converged", "registry": "lagging"}}
    story.ctx.ledger.note(SERVICE, kind="receipt", body=body, actor="ann", now=ending.at + 1)
    answers = {one.layer: one for one in told(story).followed}
    assert (answers["traffic"].ms, answers["traffic"].at_most) == (7.5, False)
    assert (answers["registry"].ms, answers["registry"].at_most) == (2000.0, True)


def test_pages_of_the_rollout_are_told(story: Story) -> None:
    """Those that went with its own revisions, oldest first."""
    stories.taken_out(story)
    severities = [(page.revision, page.severity, page.resolves) for page in told(story).pages]
    assert severities == [(7, "warning", False), (8, "info", True)]


def test_times_of_answers_come_from_the_proxys_buckets(story: Story) -> None:
    """Each look's cumulative counts are taken apart again: as many answers as there were requests, at the right edges."""
    stories.taken_out(story)
    found = told(story)
    curve = found.times[found.candidate]
    assert curve.n == found.analyses[1].trails["latency"].watched.n
    assert (curve.ms, curve.share[-1], curve.by) == ((13.0, 32.0), 1.0, "the proxy")


def test_buckets_that_began_anew_are_counted_from_zero() -> None:
    """A proxy that was started again has lower counts; nothing is subtracted then."""
    summed = report_evidence._Times()
    for cursor in ({"times": {"1": 5}}, {"times": {"1": 9}}, {"times": {"1": 2, "10": 1}}, {"times": {"1": 2, "10": 4}}):
        summed.take(cursor)
    assert summed.counts == {1.0: 6, 10.0: 4}
    curve = latency.of_buckets(summed.counts)
    assert (curve.ms, curve.share, curve.at(0.99)) == ((2.0, 11.0), (0.6, 1.0), 11.0)


def test_times_that_were_passed_over_are_not_counted() -> None:
    """While a phase settles nobody counts; what came meanwhile is in no curve."""
    summed = report_evidence._Times()
    for cursor in ({"times": {"1": 5}}, {"times": {"1": 9}}, None, {"times": {"1": 50}}, {"times": {"1": 51}}):
        summed.take(cursor)
    assert summed.counts == {1.0: 5}


BEGAN = 1_000_000.0


@dataclasses.dataclass
class Long:
    """A book with measurements that are made when they are read; what was read is counted."""

    rows: int
    gate: str
    seen: Callable[[int], base.Observation]
    read: int = 0

    def recorded(self, service: str, analysis: str, *, after: int = 0) -> Iterator[dict[str, Any]]:
        for number in range(after + 1, self.rows + 1):
            self.read += 1
            body = {"step": 0, "observations": {self.gate: [self.seen(number).to_json()]}, "cursors": {}}
            yield {"seq": number, "at": BEGAN + number, "body": body}


def question(name: str, gate: service_gates.AnyGate) -> analysis_run.Question:
    """One gate in a canary that began at BEGAN."""
    return analysis_run.Question(
        key="4/canary", mode="compare", watched="b", beside="a", gates={name: gate}, alpha=0.01, began=BEGAN, share=0.05
    )  # fmt: skip


def test_a_day_of_measurements_is_asked_about_at_some_hundred_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """86,400 rows are read once, a gate is asked at no more than 241 moments, and what is kept does not grow with them."""
    asked: list[float] = []
    verdict = gate_run.GateState.verdict
    monkeypatch.setattr(gate_run.GateState, "verdict", lambda self, now: asked.append(now) or verdict(self, now))
    look = base.Observation(at=0.0, watched=base.Tally(n=1, value=0.0))
    book: Any = Long(rows=86_400, gate="oom", seen=lambda number: dataclasses.replace(look, at=BEGAN + number))
    gate = service_gates.OutOfMemory(metric="oom_kills")
    found = report_evidence.replay(book, SERVICE, question("oom", gate), kind="canary", until=BEGAN + 86_400)
    assert (book.read, found.rows) == (86_400, 86_400)
    assert 200 < len(asked) <= report_evidence.POINTS + 1
    trail = found.trails["oom"]
    assert len(trail.points) == len(asked)
    assert len(trail.stretches) <= report_evidence.STRETCHES
    assert sum(one.watched.n for one in trail.stretches) == trail.watched.n == 86_400


def test_the_onset_in_a_long_analysis_is_found_by_reading_what_lies_around_it() -> None:
    """A fault after 9,500 of 10,000 s is found to a few seconds; only some hundred rows are read again."""
    tallies = {True: base.Tally(n=5, bad=2), False: base.Tally(n=5)}
    book: Any = Long(
        rows=10_000,
        gate="errors",
        seen=lambda number: base.Observation(
            at=BEGAN + number, watched=tallies[number > 9500 and number % 2 > 0], beside=base.Tally(n=95, bad=number % 2)
        ),
    )
    asked = question("errors", service_gates.ErrorRate(metric="error_rate", persistence=0))
    trail = report_evidence.replay(book, SERVICE, asked, kind="canary", until=BEGAN + 10_000).trails["errors"]
    assert trail.verdict.outcome == "fail"
    book.read = 0
    found = changepoint.estimate_change_point(book, SERVICE, asked, trail=trail)
    assert found is not None
    assert abs(found - BEGAN - 9500) <= 3
    assert book.read < 600


def test_the_onset_of_a_worse_mean_is_where_the_mean_changed() -> None:
    """A score that gets worse after 2,000 s, in blocks of 20 s."""
    book: Any = Long(
        rows=150,
        gate="quality",
        seen=lambda number: base.Observation(
            at=BEGAN + 20 * number,
            watched=base.Tally(n=40, total=40 * (0.2 + 0.002 * (number % 3) + (0.05 if number > 100 else 0))),
            beside=base.Tally(n=40, total=40 * (0.2 + 0.002 * (number % 2))),
        ),
    )
    asked = question("quality", service_gates.Score(metric="score", score="brier", margin=0.005, kind="guardrail", block_s=20))
    trail = report_evidence.replay(book, SERVICE, asked, kind="canary", until=BEGAN + 3000).trails["quality"]
    assert trail.verdict.outcome == "fail"
    found = changepoint.estimate_change_point(book, SERVICE, asked, trail=trail)
    assert found is not None
    assert abs(found - BEGAN - 2000) <= 40


def test_the_curve_of_the_workers_log_is_used_where_no_gate_counts_times(tmp_path: Path) -> None:
    """Without a latency gate the times come from what the workers wrote down."""
    import pyarrow as pa

    from lastgood.serving import inference_log, segments

    with stories.begun(tmp_path, gates="") as story:
        good, bad = stories.taken_out(story)
        rows = [(stories.START + 45 + n / 10, digest, us) for n in range(100) for digest, us in ((good, 5_000), (bad, 20_000))]
        table = pa.table(
            {
                "at": pa.array([round(at * 1e6) for at, _, _ in rows], pa.int64()).cast(pa.timestamp("us", tz="UTC")),
                "bundle": [digest for _, digest, _ in rows],
                "latency_us": pa.array([us for _, _, us in rows], pa.int64()),
            }
        )
        folder = story.ctx.settings.inference(SERVICE) / inference_log.PREDICTIONS / segments.day_name(stories.START)
        folder.mkdir(parents=True)
        segments.write_segment(table, folder, name=segments.segment_name("w", 1, 1))
        found = told(story)
    assert {digest: curve.by for digest, curve in found.times.items()} == {good: "the workers", bad: "the workers"}
    assert found.times[bad].at(0.99) == pytest.approx(20, rel=0.05)
    assert found.times[good].at(0.99) == pytest.approx(5, rel=0.05)


def test_a_verdict_of_another_release_of_the_program_is_left_out_and_said(story: Story) -> None:
    """Evidence with fields that this release does not know is no reason to fail."""
    good = story.first()
    bad = story.propose(2.0)
    story.go_on(seconds=3)
    event = Reject(bundle=bad, reason="x")
    evidence = {"verdicts": [{"gate": "errors", "colour": "blue"}]}
    release.commit(story.ctx, story.state(), event, release.Request(actor="c", reason="x", evidence=evidence), verb="rollback")
    found = told(story)
    assert (found.decided, found.good) == ((), good)
    assert any("form that this release does not know" in what for what in found.missing)


def test_the_service_of_the_factory_is_the_one_told(story: Story) -> None:
    """The first release of a service has nothing beside it, and is told all the same."""
    digest = story.first()
    found = told(story)
    assert (found.candidate, found.stable, found.outcome) == (digest, None, "released")
    assert all(change.change == "added" for change in found.changes)

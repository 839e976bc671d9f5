"""What is asked of which bundle and since when, and which measurements are kept for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastgood import context, ledger, release
from lastgood.analysis import run as analysis_run
from lastgood.analysis.run import WATCH_S
from lastgood.controller import analysis_loop
from lastgood.release import advance
from tests.reports import story as stories
from tests.reports.story import SERVICE, Story

ALWAYS = """\
gates:
  errors: {metric: error_rate, window_s: 10, min_samples: 100, watch: always, max: 0.1}
"""
DAY = int(stories.START // WATCH_S)
FOREVER_S = 400 * WATCH_S


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    """A project with one stable bundle that is always watched."""
    with stories.begun(tmp_path, gates=ALWAYS) as begun:
        begun.first()
        yield begun


def asked(story: Story, now: float) -> list[analysis_run.Question]:
    """What is to be measured at *now*."""
    state = story.state()
    at = story.ctx.ledger.revision(SERVICE, state.rollout).at if state.rollout else 0.0
    return analysis_run.questions(state, context.judged_by(story.ctx, state), proposed_at=at, now=now)


def test_on_watch_the_evidence_begins_anew_each_day(story: Story) -> None:
    """So that a restart has a day to read at most; the first day begins with the revision, not before."""
    revision = story.state().revision
    (first,) = asked(story, story.now)
    (last,) = asked(story, (DAY + 1) * WATCH_S - 0.001)
    (next_day,) = asked(story, (DAY + 1) * WATCH_S)
    assert (first.key, last) == (f"{revision}/watch-{DAY}", first)
    assert (next_day.key, next_day.began) == (f"{revision}/watch-{DAY + 1}", (DAY + 1) * WATCH_S)
    since = [analysis_run.Analysis(one, book=story.ctx.ledger, service=SERVICE).question.began for one in (first, next_day)]
    assert since == [story.ctx.ledger.revision(SERVICE, revision).at, (DAY + 1) * WATCH_S]


def test_a_gate_that_needs_long_has_a_stretch_that_is_longer(tmp_path: Path) -> None:
    """A row of windows, a block or a patience of hours fits many times into one stretch, so each gate can come to a verdict."""
    slow = """\
gates:
  errors: {metric: error_rate, watch: always, window_s: 3600, persistence: 2}
  bought: {metric: score, score: outcome.bought, better: higher, margin: 0.01, watch: always, block_s: 14400, patience_s: 100000}
"""
    with stories.begun(tmp_path, gates=slow) as begun:
        begun.first()
        service = context.judged_by(begun.ctx, begun.state())
        for wanted, days in (({"errors"}, 2), ({"errors", "bought"}, 28)):
            gates = {name: gate if name in wanted else gate.model_copy(update={"watch": "bake"}) for name, gate in service.gates.items()}
            told = service.model_copy(update={"gates": gates})
            (question,) = analysis_run.questions(begun.state(), told, proposed_at=0.0, now=begun.now)
            assert set(question.gates) == wanted
            assert question.key.rpartition("-")[2] == str(int(begun.now // (days * WATCH_S)))
            assert question.began == begun.now // (days * WATCH_S) * days * WATCH_S


def test_nobody_can_have_seen_traffic_before_the_first_look(story: Story) -> None:
    """A controller that was away for longer than a gate's patience does not take stable back for want of traffic."""
    story.now = (DAY + 1) * WATCH_S + 9 * 3600
    (question,) = asked(story, story.now)
    patient = question.gates["errors"].model_copy(update={"patience_s": 900.0})
    question = dataclasses.replace(question, gates={"errors": patient})
    analysis = analysis_run.Analysis(question, book=story.ctx.ledger, service=SERVICE)
    story.traffic.per_s = 0.0

    def causes(seconds: int) -> set[str]:
        found = set()
        for _ in range(seconds // 10):
            analysis.measure(story.now, story.traffic)
            found.add(analysis.verdicts(story.now)["errors"].cause)
            story.now += 10
        return found

    assert causes(900) == {"too_few"}
    assert causes(20) == {"no_traffic"}
    again = analysis_run.Analysis.resumed(question, book=story.ctx.ledger, service=SERVICE).verdicts(story.now)
    assert again == analysis.verdicts(story.now)


def test_a_trigger_that_fails_on_a_later_day_takes_stable_back(story: Story) -> None:
    """Nothing of the days before is needed for it."""
    good = story.state().stable
    bad = story.propose(2.0, chain=())
    story.go_on(until="bake-ended")
    story.now = (DAY + 3) * WATCH_S + 100
    story.go_on(seconds=30)
    story.traffic.bad = {bad: 0.5}
    story.go_on(until="rollback")
    assert story.state().stable == good


def test_a_bundle_is_watched_over_midnight_without_a_gap(story: Story) -> None:
    """The fault began just before the day did; the evidence of the new day is enough."""
    bad = story.propose(2.0, chain=())
    story.go_on(until="bake-ended")
    story.now = (DAY + 1) * WATCH_S - 3
    story.traffic.bad = {bad: 0.5}
    story.go_on(until="rollback", seconds=60)


def test_old_measurements_go_and_those_that_are_needed_stay(story: Story) -> None:
    """Thirty days are kept; of a release on its way everything is, however long that has been."""
    book, clock = story.ctx.ledger, story.now
    keeper = analysis_loop.Gatekeeper(story.ctx.settings, SERVICE, holder="me", moved=lambda *_: None)

    def forget(days: float) -> None:
        now = clock + days * WATCH_S
        keeper._forgot_at = float("-inf")
        keeper._forget(story.ctx, story.state(), asked(story, now), now=now)

    def kept(key: str) -> int:
        return sum(1 for _ in book.recorded(SERVICE, key))

    book.record(SERVICE, "1/watch-0", {}, now=clock)
    forget(29)
    assert kept("1/watch-0") == 1
    story.propose(2.0)
    while story.state().weight_pct == 0:
        story.look()
    story.go_on(seconds=3)
    shadow, canary = (f"{story.state().rollout}/{phase}" for phase in ("shadow", "canary"))
    measured = kept(shadow), kept(canary)
    assert min(measured) > 0
    forget(60)
    assert (kept("1/watch-0"), kept(shadow), kept(canary)) == (0, *measured)
    release.roll_back(story.ctx, SERVICE, release.Request(actor="ann", reason="enough"), to=story.state().stable)
    forget(61)
    assert (kept(shadow), kept(canary)) == measured, "the time after the step back is held against them"
    story.now += FOREVER_S
    advance.verify(story.ctx, SERVICE, verdicts={}, actor="test")
    forget(62)
    assert (kept(shadow), kept(canary)) == (0, 0)


def test_forgetting_is_done_now_and_then(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at every look, and never so much at once that a look would be missed."""
    keeper = analysis_loop.Gatekeeper(story.ctx.settings, SERVICE, holder="me", moved=lambda *_: None)
    monkeypatch.setattr(analysis_loop, "FORGET_AT_MOST", 1)
    monkeypatch.setattr("lastgood.ledger.measurements._REMOVE", 1)
    for _ in range(3):
        story.ctx.ledger.record(SERVICE, "1/watch-0", {}, now=1.0)
    gone = []
    for seconds in (0.0, 1.0, analysis_loop.FORGET_EVERY_S - 1, analysis_loop.FORGET_EVERY_S):
        before = sum(1 for _ in story.ctx.ledger.recorded(SERVICE, "1/watch-0"))
        keeper._forget(story.ctx, story.state(), [], now=story.now + seconds)
        gone.append(before - sum(1 for _ in story.ctx.ledger.recorded(SERVICE, "1/watch-0")))
    assert gone == [1, 0, 0, 1]


# --- outcomes ----------------------------------------------------------------------------------------------


def test_what_came_of_an_answer_is_no_matter_of_a_shadow(tmp_path: Path) -> None:
    """Nobody got the copy's answer; in the canary and afterwards the gate is asked."""
    bought = "gates:\n  bought: {metric: score, score: outcome.bought, better: higher, margin: 0.01, kind: guardrail}\n"
    with stories.begun(tmp_path, gates=bought) as begun:
        begun.first()
        begun.propose(2.0)
        seen = {}
        while begun.state().weight_pct < 5:
            begun.look()
            seen[begun.state().phase] = {name for question in asked(begun, begun.now) for name in question.gates}
        assert "bought" not in seen["shadow"]
        assert "bought" in seen["canary"]


def test_the_end_of_a_bake_says_what_could_not_be_told(tmp_path: Path) -> None:
    """Without requests nothing was shown; with them it stayed good."""
    reasons = []
    for number, per_s in enumerate((0.0, 200.0)):
        with stories.begun(tmp_path / str(number), gates=ALWAYS) as begun:
            begun.first()
            begun.traffic.per_s = per_s
            begun.propose(2.0, chain=())
            begun.now += 1
            begun.go_on(until="bake-ended")
            reasons.append(begun.ctx.ledger.history(SERVICE, limit=1)[0].reason)
    assert reasons[0].startswith("no guardrail failed in the ")
    assert "without a verdict: errors: " in reasons[0]


def test_a_signal_that_holds_nothing_is_paged_once(tmp_path: Path) -> None:
    """The release stands, and somebody knows; the same failure a second later is no second page."""
    signal = "gates:\n  slow: {metric: latency_p99, max_ms: 100, window_s: 10, min_samples: 100, settle_s: 0, kind: signal}\n"
    with stories.begun(tmp_path, gates=signal) as begun:
        begun.first()
        new = begun.propose(2.0)
        begun.traffic.slow = {new: 0.5}
        begun.go_on(seconds=120)
        told = [page for page in begun.ctx.ledger.pages(SERVICE) if page.key == "signal-slow"]
        assert len(told) == 1
        assert told[0].severity == "warning"
        assert told[0].summary.startswith(
            f"toy: gate 'slow' failed, {new[7:19]} does not advance until it passes: share slower than 100 ms"
        )
        assert begun.state().phase == "shadow"
        assert begun.state().hold is None


def test_a_service_that_a_person_holds_and_that_has_nothing_to_go_back_to_is_paged_once(tmp_path: Path) -> None:
    """What serves is bad: not while it is good, and not at every look; the service's own hold is not put on top of the person's."""
    slow = "gates:\n  slow: {metric: latency_p99, max_ms: 100, window_s: 10, min_samples: 100, settle_s: 0, watch: always}\n"
    with stories.begun(tmp_path, gates=slow) as begun:
        first = begun.first()
        release.hold(begun.ctx, SERVICE, release.Request(actor="ann", reason="holidays"))

        def told() -> list[ledger.Page]:
            return [page for page in begun.ctx.ledger.pages(SERVICE) if page.key == "stranded"]

        begun.go_on(seconds=60)
        assert told() == []
        begun.traffic.slow = {first: 0.5}
        begun.go_on(seconds=120)
        (page,) = told()
        assert page.severity == "critical"
        assert f"{first[7:19]}' keeps serving" in page.summary
        assert "promote a good bundle with 'lastgood promote toy BUNDLE'" in page.summary
        assert begun.state().hold.actor == "ann"

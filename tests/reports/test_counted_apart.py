"""Answers to users and answers to copies are told apart everywhere, and an estimate is told as one."""

from __future__ import annotations

import dataclasses
import random
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastgood.cli import watch
from lastgood.gates import base
from lastgood.paging import message
from lastgood.reports import changepoint, evidence, html, incident, live, record, wording
from lastgood.service import gates, strategy
from lastgood.sources import base as sources
from tests.reports import story as stories
from tests.reports.story import SERVICE, Story
from tests.reports.test_record import BEGAN, Long, question

MIRRORED = strategy.parse([{"phase": "canary", "weight_pct": 5, "mirror_pct": 100, "min_s": 30, "max_s": 3600}])


@dataclasses.dataclass(kw_only=True)
class Mirrored(stories.Traffic):
    """As the proxy counts: users' requests, what they got, and the copies beside them."""

    def read(self, name: str, asked: sources.MeasurementRequest, *, now: float, cursor: sources.Cursor | None) -> sources.SourceReading:
        answer = super().read(name, asked, now=now, cursor=cursor)
        if asked.gate.metric != "error_rate":
            return answer
        seen = []
        for one in answer.observations:
            beside = None if one.beside is None else dataclasses.replace(one.beside, user_errors=one.beside.bad)
            # The fallback answers every second request that the candidate fails; copies come at the full rate.
            watched = dataclasses.replace(one.watched, user_errors=one.watched.bad // 2, copies=95 if asked.copied else 0)
            seen.append(dataclasses.replace(one, watched=watched, beside=beside))
        return sources.SourceReading(observations=seen, cursor=answer.cursor)


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    """A candidate that was taken out of a canary that was mirrored besides."""
    with stories.begun(tmp_path) as begun:
        begun.traffic = Mirrored()
        begun.first()
        bad = begun.propose(2.0, chain=MIRRORED)
        begun.traffic.bad = {bad: 0.0}
        begun.go_on(seconds=40)
        begun.traffic.bad = {bad: 0.6}
        begun.go_on(until="rollback")
        yield begun


def test_copies_are_no_answers_to_users(story: Story) -> None:
    """Chronicle, incident, report and verdict: a twentieth of the requests went to users, the copies are named beside them."""
    told = record.collect(story.ctx, SERVICE, clock=story.clock)
    seen = told.requests[told.candidate]
    assert 100 < seen.answered < 1000
    assert seen.mirrored > 10 * seen.answered
    assert seen.user_errors is not None
    assert 0 < seen.user_errors < seen.failed
    value = incident.incident_record(told)
    assert {name: value["requests"][name] for name in ("answered", "failed", "user_errors", "mirrored")} == dataclasses.asdict(seen)
    assert value["requests"]["bad_by_gate"]["errors"] == seen.failed
    assert "errors" not in value["requests"]["bad_copies_by_gate"]
    assert (value["verdict"]["user_errors"], value["verdict"]["n"]) == (seen.user_errors, seen.answered)
    assert value["verdict"]["copies"] == seen.mirrored
    assert f"users got {seen.user_errors:,} errors in these {seen.answered:,} requests" in value["verdict"]["why"]
    page = " ".join(html.html(told).split())
    assert f"{seen.answered:,} <small>{seen.failed:,} of them failed; users got {seen.user_errors:,} errors</small>" in page
    assert f"{seen.mirrored:,} <small>answers discarded</small>" in page


def test_an_older_release_counted_copies_with_users_and_that_is_said(tmp_path: Path) -> None:
    """Its measurements cannot be taken apart any more; the report does not pretend to know."""
    with stories.begun(tmp_path) as begun:
        begun.first()
        bad = begun.propose(2.0, chain=MIRRORED)
        begun.traffic.bad = {bad: 0.6}
        begun.go_on(until="rollback")
        told = record.collect(begun.ctx, SERVICE, clock=begun.clock)
    assert any("counted copies among them" in what for what in told.missing)
    assert told.requests[bad].user_errors is None


def test_the_headline_tells_the_exposure_as_measured_and_the_onset_as_an_estimate(story: Story) -> None:
    """How long users had it is a fact of the ledger; since when the fault shows is a guess, with its bounds."""
    told = record.collect(story.ctx, SERVICE, clock=story.clock)
    assert told.ending is not None
    canary = next(one for one in told.revisions if one.state.weight_pct)
    assert told.exposure_s == pytest.approx(told.ending.at - canary.at)
    headline = wording.headline(told)
    assert f"users had been served by it for {wording.duration(told.exposure_s)}" in headline
    assert "for an estimated" in headline
    assert "(between" in headline
    value = incident.incident_record(told)
    low, high = value["onset_between"]
    assert low <= value["onset"] <= high
    assert value["seconds"]["exposure"] == told.exposure_s
    least, most = value["seconds"]["onset_to_verdict_between"]
    assert least <= value["seconds"]["onset_to_verdict"] <= most
    assert "to verdict (estimate)" in html.html(told)


def test_who_watches_sees_them_apart(story: Story) -> None:
    """The line of `watch --json` has them in each verdict."""
    seen = live.Watcher(story.ctx, SERVICE).look(story.now).to_json()
    errors = next(gate for gate in seen["gates"] if gate["gate"] == "errors")
    assert {"user_errors", "copies"} <= set(errors)


def test_a_page_and_the_watcher_say_what_is_counted() -> None:
    """Of users, of copies alone, or of both."""
    fields: dict[str, Any] = {"gate": "errors", "metric": "error_rate", "kind": "guardrail", "outcome": "fail", "cause": "sequential"}
    fields |= {"why": "", "at": 1.0, "n": 215}
    for more, paged, watched in (
        ({"user_errors": 3}, "n=215:", ""),
        ({"user_errors": 3, "copies": 3933}, "n=215 and 3933 copies:", " + 3,933 copies"),
        ({"copies": 215}, "n=215 copies:", " copies"),
    ):
        verdict = base.Verdict(**fields, **more)
        assert paged in message._gate(verdict.to_json())
        assert watch._copies(verdict) == watched


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.8])
def test_the_bounds_of_an_onset_hold_the_true_moment(rate: float) -> None:
    """Of sixty faults that begin somewhere, nineteen of twenty are within the bounds, give or take what chance does to sixty."""
    held = 0
    for seed in range(60):
        chance = random.Random(seed)
        begins = chance.randint(100, 400)
        tallies = [
            base.Tally(n=10, bad=sum(chance.random() < (rate if number >= begins else 0.005) for _ in range(10))) for number in range(600)
        ]
        book: Any = Long(
            rows=600,
            gate="errors",
            seen=lambda number, tallies=tallies: base.Observation(
                at=BEGAN + number, watched=tallies[min(number, 599)], beside=base.Tally(n=200, bad=1)
            ),
        )
        asked = question("errors", gates.ErrorRate(metric="error_rate", persistence=0))
        found = changepoint.estimate(book, SERVICE, asked, trail=_trail(tallies, asked.gates["errors"]))
        assert found is not None
        held += found.earliest - 1 <= BEGAN + begins <= found.latest + 1
    assert held >= 52


def _trail(tallies: list[base.Tally], gate: gates.AnyGate) -> evidence.Trail:
    """What a replay makes of one measurement a second: stretches of five, and the sums."""
    stretches = [
        evidence.Stretch(
            start=BEGAN + first,
            end=BEGAN + first + 5,
            after=first,
            watched=base.Tally(n=50, bad=sum(one.bad for one in tallies[first : first + 5])),
            beside=base.Tally(n=1000, bad=5),
        )
        for first in range(0, len(tallies), 5)
    ]
    verdict: Any = types.SimpleNamespace(gate="errors", reference=0.005, streak=0)
    return evidence.Trail(
        gate=gate, verdict=verdict, points=(), stretches=tuple(stretches), watched=base.EMPTY, beside=base.Tally(n=120_000, bad=600)
    )

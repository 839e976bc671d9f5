"""Watch, report and Dagster say the same of one ledger: there is one way from measurements to what a gate says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_lastgood import gate_checks, parts
from lastgood import release
from lastgood.analysis import follow
from lastgood.analysis import run as analysis_run
from lastgood.service import schema, strategy
from lastgood.settings import Settings
from lastgood.system import clock
from lastgood.testing import projects
from tests.cli.conftest import Run
from tests.reports import story as stories
from tests.reports.story import SERVICE, Story

GATES = """\
gates:
  errors: {metric: error_rate, window_s: 10, min_samples: 100}
  latency: {metric: latency_p99, max_ms: 100, window_s: 10, min_samples: 100}
  alike: {metric: agreement, min: 0.9, kind: guardrail, during: [shadow, canary], window_s: 10, min_samples: 20}
"""
CHAIN = strategy.parse(
    [
        {"phase": "canary", "weight_pct": 5, "mirror_pct": 20, "min_s": 30, "max_s": 3600},
        {"phase": "canary", "weight_pct": 25, "min_s": 3000, "max_s": 36000},
    ]
)
FIGURES = ("outcome", "cause", "kind", "metric", *gate_checks.FIGURES)
TIMED = {"needs_s"}
"""What depends on the moment of the look; the three look one after the other."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A project with one service that has several gates."""
    made = projects.project(tmp_path, extra=GATES)
    file = made.services / SERVICE / schema.FILE
    file.write_text(file.read_text().replace("strategy: []", "strategy: [{phase: shadow}]"))
    return made


@pytest.fixture
def story(settings: Settings) -> Iterator[Story]:
    """Releases on a virtual clock, in that project."""
    with projects.opened(settings) as ctx:
        yield Story(ctx=ctx, traffic=stories.Traffic())


def said(gates: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each gate says, without what is not known."""
    return {gate["gate"]: {name: gate[name] for name in FIGURES if name not in TIMED and gate.get(name) is not None} for gate in gates}


def by_watch(run: Run) -> dict[str, dict[str, Any]]:
    """As the command line shows it."""
    return said(json.loads(run("watch", SERVICE, "--once", "--json").out)["gates"])


def by_report(run: Run, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """As the report has it."""
    return said(json.loads(run("report", SERVICE, "--json", "--out", str(tmp_path / "report.html")).out)["gates"])


def by_dagster(story: Story) -> dict[str, dict[str, Any]]:
    """As the checks are evaluated, of those gates that can tell."""
    answers = follow.newest(story.ctx, SERVICE, now=clock.now())
    found = gate_checks.evaluations(SERVICE, answers.values())
    return {
        one.check_name: {name: one.metadata[name].value for name in FIGURES if name in one.metadata and name not in TIMED} for one in found
    }


def all_say_the_same(run: Run, story: Story, tmp_path: Path) -> dict[str, str]:
    """The outcome of each gate, having checked that watch, report and Dagster agree on it and on its figures."""
    told = by_watch(run)
    assert by_report(run, tmp_path) == told
    dagster = {
        gate: figures for gate, figures in by_dagster(story).items() if gate in told
    }  # a check that is skipped keeps its last answer
    assert dagster == {gate: figures for gate, figures in told.items() if figures["outcome"] != "inconclusive"}
    return {gate: figures["outcome"] for gate, figures in told.items()}


def resumed(story: Story) -> dict[str, Any]:
    """What a controller says that has just been started."""
    (question,) = analysis_run.open_questions(story.ctx, story.state(), now=story.now)
    return dict(analysis_run.Analysis.resumed(question, book=story.ctx.ledger, service=SERVICE).verdicts(story.now))


def to_canary(story: Story, *, position: int) -> None:
    """Until the candidate is in that step."""
    while story.state().position != position:
        story.look()


def test_of_a_release_under_way_all_say_the_same_step_by_step(run: Run, story: Story, tmp_path: Path) -> None:
    """A gate that has not judged yet, one that is asked in one step and skipped in the next, a hold in between."""
    story.first()
    story.propose(2.0, chain=CHAIN)
    to_canary(story, position=0)
    story.go_on(seconds=5)
    early = all_say_the_same(run, story, tmp_path)
    assert early["alike"] == "inconclusive"
    boundary = by_watch(run)["errors"]["boundary"]
    to_canary(story, position=1)
    story.go_on(seconds=15)
    later = all_say_the_same(run, story, tmp_path)
    assert "alike" not in later
    assert by_dagster(story)["alike"]["outcome"] == "pass"
    assert later["errors"] == "pass"
    assert by_watch(run)["errors"]["boundary"] == boundary, "a gate's share of alpha does not hang on the step"
    assert story.bench.verdicts(story.now)[0] == resumed(story), "a controller that ran on says what a new one says"
    release.hold(story.ctx, SERVICE, release.Request(actor="ann", reason="freeze"))
    assert all_say_the_same(run, story, tmp_path) == later
    release.release_hold(story.ctx, SERVICE, release.Request(actor="ann", reason="go on"))
    story.go_on(seconds=15)
    assert set(all_say_the_same(run, story, tmp_path)) == set(later)


def test_a_verdict_on_stable_gives_way_to_the_candidates_own(run: Run, story: Story, tmp_path: Path) -> None:
    """While a rollback is being verified a new release begins: what its gates say replaces what they say of stable, for all three."""
    good, bad = story.first(), story.propose(2.0, chain=CHAIN)
    to_canary(story, position=0)
    story.go_on(seconds=5)
    story.traffic.bad = {bad: 0.5}
    story.go_on(until="rollback")
    story.traffic.per_s = 1.0
    third = story.propose(3.0, chain=CHAIN)
    story.go_on(seconds=5)
    assert story.state().verifying is not None
    assert story.state().candidate == third
    all_say_the_same(run, story, tmp_path)
    bundles = {gate: one.bundle for gate, one in follow.standing(story.ctx, story.state(), now=clock.now()).items()}
    assert bundles["errors"] == third
    assert good != third


def test_the_failure_that_ended_a_release_is_the_same_for_report_and_dagster(run: Run, story: Story, tmp_path: Path) -> None:
    """It stands in the revision that it led to; no candidate is left to be asked about."""
    story.first()
    bad = story.propose(2.0, chain=CHAIN)
    to_canary(story, position=0)
    story.traffic.bad = {bad: 0.5}
    story.go_on(until="rollback")
    failed = {gate: figures for gate, figures in by_report(run, tmp_path).items() if figures["outcome"] == "fail"}
    decided = follow.decided(story.ctx.ledger.history(SERVICE, limit=1), ledger=story.ctx.ledger)
    assert "errors" in failed
    evaluated = {one.check_name: one for one in gate_checks.evaluations(SERVICE, decided.values())}
    assert evaluated["errors"].severity == dg.AssetCheckSeverity.ERROR
    assert evaluated["errors"].asset_key == parts.release_key(SERVICE)
    assert evaluated["errors"].metadata["lastgood/bundle"].value == bad
    assert {name: evaluated["errors"].metadata[name].value for name in failed["errors"]} == failed["errors"]

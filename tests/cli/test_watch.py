"""`lastgood watch` and `lastgood report`: what they show, and the code they end with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rich.console

from lastgood import release
from lastgood.cli import watch
from lastgood.release import advance
from lastgood.reports import live
from lastgood.settings import Settings
from lastgood.testing import projects
from tests.cli.conftest import Run
from tests.reports import story as stories
from tests.reports.story import SERVICE, Story


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A project with one service that has gates."""
    return projects.project(tmp_path, extra=stories.GATES)


@pytest.fixture
def story(settings: Settings) -> Iterator[Story]:
    """Releases on a virtual clock, in that project."""
    with projects.opened(settings) as ctx:
        yield Story(ctx=ctx, traffic=stories.Traffic())


def in_canary(story: Story) -> tuple[str, str]:
    """A candidate some seconds into its first canary step; returns (stable, candidate)."""
    good = story.first()
    new = story.propose(2.0)
    while story.state().weight_pct == 0:
        story.look()
    story.go_on(seconds=15)
    return good, new


def released(story: Story) -> None:
    """A second bundle was cut over and has proved itself."""
    story.first()
    story.propose(2.0, chain=())
    story.go_on(until="bake-ended")


def given_up(story: Story) -> None:
    """The workers never got ready."""
    story.first()
    story.propose(2.0)
    story.now += 100
    advance.advance(story.ctx, SERVICE, ready=set(), actor="controller")


def called_off(story: Story) -> None:
    """A person rolls stable back while a candidate is in progress: that one is not to blame."""
    released(story)
    story.propose(3.0)
    story.go_on(seconds=5)
    release.roll_back(story.ctx, SERVICE, release.Request(actor="bob", reason="stable is bad"))
    story.go_on(until="verified")


def taken_out(story: Story) -> None:
    """A gate took the candidate out."""
    stories.taken_out(story)


def test_one_look_shows_the_chain_the_shares_and_every_gate_with_its_figures(run: Run, story: Story) -> None:
    """The present phase stands in brackets; each gate says how many requests it has seen and how near it is to its boundary."""
    _, new = in_canary(story)
    done = run("watch", SERVICE, "--once")
    assert done.code == 0, done.err
    assert f"of {new[7:19]}  under way" in done.out
    assert "preparing -> shadow" in done.out
    assert "-> [canary 5 %" in done.out
    assert "candidate 5 % desired, unknown actual" in done.out
    errors = next(line for line in done.out.splitlines() if line.strip().startswith("errors"))
    assert "cannot tell" in errors
    assert f"n {json.loads(run('watch', SERVICE, '--once', '--json').out)['gates'][0]['n']:>8,}" in errors
    assert " of 10^" in errors


@pytest.mark.parametrize(
    ("end", "code", "outcome"),
    [(released, 0, "released"), (taken_out, 5, "taken out"), (given_up, 1, "given up"), (called_off, 3, "called off")],
)
def test_the_exit_code_says_how_the_release_ended(run: Run, story: Story, end: Callable[[Story], None], code: int, outcome: str) -> None:
    """So that a script can wait for a release and go by its end; a line of JSON says the same."""
    end(story)
    done = run("watch", SERVICE)
    assert (done.code, f"  {outcome}: " in done.out) == (code, True), done
    told = run("watch", SERVICE, "--json")
    assert told.code == code
    assert (told.json["schema"], told.json["outcome"], told.json["exit_code"]) == (live.SCHEMA, outcome, code)


def test_a_service_that_was_never_released_has_nothing_to_watch(run: Run, story: Story) -> None:
    """Exit code 2, as for every name that is not there."""
    story.first()
    for verb in ("watch", "report"):
        done = run(verb, "nobody")
        assert (done.code, "has never been released" in done.err) == (2, True), done


def test_a_watcher_sees_each_change_once_and_ends_with_the_release(story: Story) -> None:
    """From the canary to the verdict after the way back, each look a second later; a look at which nothing moved shows nothing."""
    in_canary(story)
    seen: list[live.LiveStatus] = []
    pauses = 0

    def pause() -> None:
        nonlocal pauses
        pauses += 1
        story.traffic.bad = {story.state().candidate or "": 0.3}
        if pauses % 2:
            story.look()

    watcher = live.Watcher(story.ctx, SERVICE)
    assert watch.follow(watcher, seen.append, pause=pause, clock=story.clock) == 5
    verbs = list(dict.fromkeys(one.revisions[0].verb for one in seen))
    assert verbs == ["advance", "rollback", "verified"]
    assert seen[-1].ended
    assert not any(one.ended for one in seen[:-1])
    assert len(seen) < pauses


def test_the_lines_of_a_pipe_tell_phases_and_verdicts(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    """One line when a revision or a verdict moves, none for figures alone; the last one says why it ended."""
    in_canary(story)

    def pause() -> None:
        story.traffic.bad = {story.state().candidate or "": 0.3}
        story.look()

    code = watch.follow(live.Watcher(story.ctx, SERVICE), watch._told(full=False), pause=pause, clock=story.clock)
    lines = capsys.readouterr().out.splitlines()
    assert code == 5
    assert "canary 5 %" in lines[0]
    assert "errors cannot tell" in lines[0]
    assert any("measuring the rollback" in line for line in lines)
    assert "taken out: " in lines[-1]
    assert len(lines) == len(set(lines))


def test_words_of_people_steer_no_terminal(run: Run, story: Story) -> None:
    """A reason with escape sequences, or with markup of the live view, is shown as what it is."""
    story.first()
    story.propose(2.0, reason="\x1b[2J[red]gone[/red]\u202e")
    done = run("watch", SERVICE, "--once")
    assert "\x1b" not in done.out
    assert "\u202e" not in done.out
    for verb in ("status", "history"):
        assert "\x1b" not in run(verb, SERVICE).out, verb
    assert "?[2J[red]gone[/red]?" in done.out
    console = rich.console.Console(width=160, record=True, file=None, force_terminal=False)
    with console.capture() as shown:
        console.print(watch._view(live.Watcher(story.ctx, SERVICE).look(story.now)))
    assert "[red]gone[/red]" in shown.get()
    assert "\x1b" not in shown.get()


def test_the_live_view_shows_gates_revisions_and_what_to_do_next(story: Story) -> None:
    """Everything that the plain page has, as tables; at the end it names the report."""
    taken_out(story)
    console = rich.console.Console(width=200, force_terminal=False)
    with console.capture() as shown:
        console.print(watch._view(live.Watcher(story.ctx, SERVICE).look(story.now)))
    text = shown.get()
    number = story.ctx.ledger.history(SERVICE, limit=1)[0].number
    assert "taken out" in text
    assert f"lastgood report {SERVICE} --rollout 4" in text
    assert f"{number} " in text
    assert "no layer has reported" in text


def test_a_report_is_written_here_or_where_it_is_asked_for(run: Run, story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path is printed, the same as JSON with the incident's figures; an unknown rollout is refused and nothing is written."""
    monkeypatch.chdir(tmp_path)
    _, bad = stories.taken_out(story)
    done = run("report", SERVICE)
    assert (done.code, done.out.strip()) == (0, "toy-rollout-4.html"), done
    assert bad[7:19] in (tmp_path / "toy-rollout-4.html").read_text()
    there = tmp_path / "kept" / "it.html"
    value = run("report", SERVICE, "--rollout", "4", "--out", str(there), "--json").json
    assert (value["path"], value["outcome"]) == (str(there), "taken out")
    assert there.exists()
    refused = run("report", SERVICE, "--rollout", "2", "--out", str(tmp_path / "no.html"))
    assert (refused.code, "proposed no rollout" in refused.err) == (2, True), refused
    assert not (tmp_path / "no.html").exists()

"""What a command says of itself is so: after down, at the end of its patience, for the second of two colleagues, when `up` fails."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from lastgood import errors, ledger, testing
from lastgood.cli import outcome as cli_outcome
from lastgood.cli import status
from lastgood.core.state import Phase, State
from lastgood.layers import receipts
from lastgood.ops import local_stack
from lastgood.release import convergence
from lastgood.settings import Settings
from lastgood.system import processes
from lastgood.testing import projects
from tests.cli.conftest import Run


@pytest.mark.parametrize("how", [["--yes"], ["--yes", "--json"], ["--dry-run"]])
def test_the_second_of_two_colleagues_is_told_that_it_is_done(run: Run, settings: Settings, how: list[str]) -> None:
    """Also where there is nothing further back: code 7 and who did it, not "no other bundle"."""
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1, 2)
    assert run("rollback", "toy", "--yes", "--actor", "anna").code == 0
    again = run("rollback", "toy", *how, "--actor", "ben")
    assert again.code == 7, again
    assert "by anna" in again.out + again.err
    assert run("rollback", "toy", "--yes", "--expect", str(run("status", "toy", "--json").json["revision"])).code == 4


@pytest.mark.parametrize("phase", ["preparing", "shadow", "canary", "approval"])
def test_a_release_that_is_still_on_its_way_is_not_called_done(phase: Phase, capsys: pytest.CaptureFixture[str]) -> None:
    """Code 6, how to follow it and how to stop it, whatever phase the patience ended in."""
    state = State(service="toy", revision=4, stable="sha256:" + "a" * 64, candidate="sha256:" + "b" * 64, phase=phase)
    revision = ledger.Revision(
        service="toy", number=4, state=state, verb="promote", actor="x", reason="x", evidence={}, at=1.0, hash="h", operation=None, marks=()
    )
    outcome = convergence.Outcome(
        service="toy", verb="promote", before=state, revision=revision, receipts=(), commit_ms=1.0, traffic_ms=1.0, total_ms=500.0
    )
    assert cli_outcome.finish(outcome, as_json=False, waited=True) == errors.PartlyConverged.exit_code
    told = capsys.readouterr().out
    assert "done" not in told
    assert told.startswith("still in progress")
    assert "lastgood watch toy" in told


def test_after_down_status_says_that_nothing_serves(run: Run, settings: Settings) -> None:
    """It was taken down, and by which command it comes back."""
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1)
    assert run("down", "toy", "--yes").code == 0
    told = run("status", "toy")
    assert "nothing serves: toy was taken down" in told.out
    assert "lastgood up toy" in told.out
    assert "keeps serving" not in told.out
    assert run("status", "toy", "--json").json["taken_down"] is True


def test_what_was_taken_down_is_down_on_purpose_and_does_not_lag() -> None:
    """A layer that still agrees says so; with the service up, one that differs lags."""
    state = State(service="toy", revision=4)
    fields = {"layer": "infrastructure", "desired_revision": 4, "observed_revision": 3, "ms": 0.0, "at": 0.0}
    lagging, agreed = (receipts.Receipt(status=one, **fields) for one in ("lagging", "converged"))
    assert status._layer_line(lagging, state, down=True).split() == ["infrastructure", "down", "on", "purpose"]
    assert status._layer_line(lagging, state, down=False).split() == ["infrastructure", "lagging"]
    assert status._layer_line(agreed, state, down=True).split() == ["infrastructure", "converged"]


@pytest.mark.parametrize("fault", ["port taken", "not YAML", "a wrong value", "a key twice", "another name", "unknown beside a known one"])
def test_up_that_fails_says_why_and_leaves_nothing(run: Run, tmp_path: Path, fault: str) -> None:
    """No controller, no proxy, no worker; with the reason, in text and in JSON."""
    made = projects.project(tmp_path / "real", port=testing.free_port(), layers=True)
    file = made.services / "toy" / "service.yaml"
    names = ["toy"]
    with socket.socket() as holder:
        text = file.read_text()
        if fault == "port taken":
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            text = text.replace(f"port: {_port(text)}", f"port: {holder.getsockname()[1]}")
        elif fault == "unknown beside a known one":
            names.append("nosuch")
        else:
            text += {"not YAML": "x: [", "a wrong value": "gates: {a: 1}\n", "a key twice": "owner: other\n", "another name": ""}[fault]
            text = text.replace("service: toy", "service: other") if fault == "another name" else text
        file.write_text(text)
        for extra in ([], ["--json"]):
            done = run("up", *names, *extra, env={"LASTGOOD_PROJECT": str(made.project)})
            assert done.code == 2, done
            assert "port" in done.out + done.err if fault == "port taken" else "service" in done.out + done.err
            assert local_stack.processes(made)["controller"] is None
            assert processes.running(made.envoy("toy")) == {}
            assert processes.running(made.run("toy")) == {}


def _port(text: str) -> int:
    return int(text.split("port: ")[1].split("}", maxsplit=1)[0])


def test_a_mistyped_verb_and_a_missing_service_are_answered_with_what_there_is(run: Run) -> None:
    """The names to type, in text and in JSON, for nobody remembers them at night."""
    typo = run("rollbak", "toy")
    assert (typo.code, "did you mean 'rollback'?" in typo.err) == (2, True), typo
    assert "lastgood --help" in run("qqqq", "toy").err
    missing = run("rollback")
    assert (missing.code, "Services here: toy." in missing.err) == (2, True), missing
    assert "Services here: toy." in run("status", "--json").json["message"]


def test_in_the_wrong_folder_nobody_is_told_to_begin_anew(run: Run, tmp_path: Path) -> None:
    """Where there are no services `up` would begin nothing; where there are, it does."""
    begin = "'lastgood up' creates a new one"
    assert begin in run("rollback", "toy", "--yes").err
    empty = tmp_path / "empty"
    empty.mkdir()
    for args in (["rollback", "toy", "--yes"], ["status", "toy"], ["rollback"]):
        told = run(*args, env={"LASTGOOD_PROJECT": str(empty)})
        assert (told.code, begin in told.err, "with 'cd'" in told.err) == (2, False, True), told
    assert run("demo", "--help", env={"LASTGOOD_PROJECT": str(empty)}).code == 0


def test_the_list_of_verbs_cuts_no_sentence_off(run: Run) -> None:
    """What a verb does is read in `--help` before it is typed."""
    assert "..." not in run("--help").out.partition("Commands:")[2]


def test_history_shows_one_line_a_revision_and_the_whole_reason_of_one(run: Run, settings: Settings) -> None:
    """A gate's reason is a paragraph: in a list it would push every column off the screen."""
    why = "gate 'quality': " + "mean brier 0.1705 against 0.1571; " * 20
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1, 2)
    assert run("rollback", "toy", "--yes", "--reason", why).code == 0
    listed = run("history", "toy").out
    assert max(map(len, listed.splitlines())) < 260
    assert " …" in listed
    assert why.strip() in run("history", "toy", "--limit", "1").out
    assert run("history", "toy", "--json").json["revisions"][0]["reason"] == why


def test_a_mistyped_service_is_answered_with_the_one_that_is_meant(run: Run, settings: Settings) -> None:
    """With the list of those that there are, whatever was typed."""
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1)
    assert "did you mean 'toy'?" in run("rollback", "tooy", "--yes").err
    assert "did you mean" not in run("rollback", "nobody", "--yes").err

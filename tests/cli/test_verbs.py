"""Each verb's contract: exit code, JSON, and what a person reads."""

from __future__ import annotations

import datetime

import pytest

from lastgood.settings import Settings
from lastgood.testing import projects
from tests.cli.conftest import Run


@pytest.fixture
def three(settings: Settings) -> list[str]:
    """Bundles that were released one after the other."""
    with projects.opened(settings) as ctx:
        return projects.released(ctx, 1, 2, 3)


def test_rollback_tells_revision_milliseconds_and_the_way_back(run: Run, three: list[str]) -> None:
    """The receipt names the new stable bundle, what is quarantined, and the exact command that undoes it; and that works."""
    _, b, c = three
    done = run("rollback", "toy", "--yes", "--reason", "alert")
    assert done.code == 0, done.err
    assert f"stable is {b[7:19]}" in done.out
    assert f"{c[7:19]} is quarantined (alert)" in done.out
    undo = next(line for line in done.out.splitlines() if line.startswith("Undo: lastgood "))
    argv = [word.strip("'") for word in undo.removeprefix("Undo: lastgood ").replace("'undo revision 10'", "undo").split()]
    again = run(*argv, "--yes")
    assert again.code == 0, again.err
    assert run("status", "toy", "--json").json["stable"] == c


def test_rollback_json_is_one_object_with_a_schema(run: Run, three: list[str]) -> None:
    """Scripts read from, to, quarantined and the times."""
    a, b, c = three
    value = run("rollback", "toy", "--yes", "--json").json
    assert value["schema"] == "lastgood.outcome/v1"
    assert (value["from"], value["to"], value["quarantined"]) == (c, b, [c])
    assert value["commit_ms"] > 0
    status = run("status", "toy", "--json").json
    assert (status["stable"], status["previous"], status["revision"]) == (b, a, value["revision"])


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (("rollback", "toy"), 2, "--yes"),
        (("rollback", "nobody", "--yes"), 2, "services in this ledger: toy"),
        (("promote", "toy", "ffffffff", "--yes"), 2, "bundle list toy"),
        (("promote", "toy", "stable", "--yes"), 7, "already stable"),
        (("rollback", "toy", "--yes", "--expect", "1"), 3, "changed since revision 1"),
        (("status", "nobody"), 2, "never been released"),
        (("frobnicate", "toy"), 2, "There is no command 'frobnicate'"),
        (("history", "toy", "--at", "yesterday"), 2, "is not a time"),
        (("hold", "toy"), 2, "requires --reason"),
        (("quarantine", "toy", "stable"), 2, "requires --reason"),
        (("release-hold", "toy"), 7, "not held"),
        (("rollback", "toy", "--yes", "--to-revision", "999"), 2, "history toy"),
    ],
)
def test_what_cannot_be_done_is_said_with_its_code_and_remedy(
    run: Run, three: list[str], args: tuple[str, ...], code: int, told: str
) -> None:
    """Every refusal has its own exit code and ends with what to do; nothing changes."""
    before = run("status", "toy", "--json").json["revision"]
    done = run(*args)
    assert (done.code, told in done.out + done.err) == (code, True), (done.code, done.out, done.err)
    assert run("status", "toy", "--json").json["revision"] == before


def test_a_quarantined_bundle_is_refused_with_code_4_also_in_json(run: Run, three: list[str]) -> None:
    """After a rollback the bad bundle cannot be promoted; the JSON error says that nothing changed."""
    run("rollback", "toy", "--yes", "--reason", "bad")
    done = run("promote", "toy", three[2][7:19], "--yes", "--json")
    assert done.code == 4
    assert (done.json["error"], done.json["changed"], done.json["retryable"]) == ("NotAllowed", False, False)
    assert "quarantined (bad)" in done.json["message"]


def test_a_usage_error_is_json_too(run: Run) -> None:
    """A misspelt option with --json still gives one object on stdout."""
    done = run("rollback", "toy", "--yess", "--json")
    assert done.code == 2
    assert (done.json["error"], done.json["exit_code"]) == ("UsageError", 2)


def test_an_ambiguous_short_id_names_the_candidates(run: Run, settings: Settings) -> None:
    """Four hex digits that fit two bundles are refused with both of them; fewer than four are refused as too short."""
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1)
    done = run("promote", "toy", "ab", "--yes")
    assert done.code == 2


def test_dry_run_shows_the_plan_and_changes_nothing(run: Run, three: list[str]) -> None:
    """The plan lists parts, what is quarantined and what is not undone."""
    done = run("rollback", "toy", "--dry-run")
    assert done.code == 0
    assert "~ model" in done.out
    assert "answer: 3 -> 2" in done.out
    assert "not undone" in done.out
    assert run("status", "toy", "--json").json["stable"] == three[2]
    assert run("plan", "toy", "--json").json["to"] == three[1]


def test_history_shows_every_change_and_what_served_at_a_time(run: Run, three: list[str]) -> None:
    """The newest first; with --at the state of that moment."""
    revisions = run("history", "toy", "--json").json["revisions"]
    assert [r["revision"] for r in revisions] == list(range(9, 0, -1))
    moment = datetime.datetime.fromtimestamp(revisions[-2]["at"] + 0.0005, datetime.UTC)
    assert run("history", "toy", "--at", moment.isoformat(), "--json").json["revisions"][0]["stable"] == three[0]
    assert run("history", "toy", "--at", "2001-01-01").code == 2


def test_revoke_and_hold_and_lift(run: Run, three: list[str]) -> None:
    """A held service refuses releases, a lifted quarantine allows one again, a revoked bundle never."""
    assert run("hold", "toy", "--reason", "freeze", "--yes").code == 0
    assert run("rollback", "toy", "--yes").code == 0
    short = three[2][7:19]
    assert run("quarantine", "toy", short, "--lift", "--reason", "was the network").code == 0
    assert run("promote", "toy", short, "--yes").code == 4
    assert run("release-hold", "toy").code == 0
    assert run("promote", "toy", short, "--yes").code == 0
    assert run("revoke", "toy", short, "--yes", "--reason", "CVE").code == 0
    done = run("promote", "toy", short, "--yes", "--override-quarantine", "--reason", "please")
    assert done.code == 4
    assert "revoked" in done.err


def test_show_diff_verify_and_lists(run: Run, three: list[str]) -> None:
    """The looking verbs agree on what there is."""
    assert run("show", "toy", "--json").json["id"] == three[2]
    parts = {part["part"]: part["change"] for part in run("diff", "toy", "previous", "stable", "--json").json["parts"]}
    assert parts == {"model": "changed", "config": "same", "environment": "same"}
    assert run("verify", "toy").code == 0
    listed = run("bundle", "list", "toy", "--json").json["bundles"]
    assert {item["id"] for item in listed} == set(three)
    assert run("bundle", "list", "toy").code == 0
    assert run("audit", "verify", "toy").code == 0
    assert run("doctor", "--json").json["ok"] is True


def test_a_damaged_part_is_reported_by_verify(run: Run, three: list[str], settings: Settings) -> None:
    """One flipped byte: code 1 and the bundle named."""
    with projects.opened(settings) as ctx:
        path = ctx.store.path(ctx.ledger.bundle(three[2]).parts["model"].digest)
        path.chmod(0o600)
        path.write_text("9")
    done = run("verify", "toy")
    assert done.code == 1
    assert f"{three[2][7:19]} DAMAGED" in done.out


def test_export_and_import_carry_a_bundle_to_another_home(run: Run, three: list[str], settings: Settings) -> None:
    """A file written here is refused there until its signer is trusted, and is the same bundle afterwards."""
    out = settings.project / "toy.lastgood.tar"
    assert run("bundle", "export", "toy", "stable", "--out", str(out)).code == 0
    there = {"LASTGOOD_HOME": str(settings.project / "elsewhere")}
    refused = run("bundle", "import", str(out), env=there)
    assert refused.code == 4
    assert "--trust" in refused.err
    fingerprint = next(word for word in refused.err.replace("'", " ").split() if len(word.removeprefix("sha256:")) == 64)
    done = run("bundle", "import", str(out), "--trust", fingerprint, "--json", env=there)
    assert done.code == 0, done.err
    assert done.json["bundle"] == three[2]
    assert run("promote", "toy", three[2][7:19], "--yes", env=there).code == 0


def test_a_missing_damaged_or_read_only_ledger_is_said(run: Run, three: list[str], settings: Settings) -> None:
    """Gone, garbage or not writable: a clear error with a remedy, never a traceback, and the file is not replaced."""
    ledger = settings.home / "ledger.db"
    kept = ledger.read_bytes()
    for suffix in ("-wal", "-shm"):
        (settings.home / f"ledger.db{suffix}").unlink(missing_ok=True)
    ledger.unlink()
    for args in (("status", "toy"), ("rollback", "toy", "--yes")):
        done = run(*args)
        assert "ledger" in done.out + done.err
        assert done.code == 1
        assert "Traceback" not in done.err
    assert not ledger.exists()
    ledger.write_bytes(b"garbage" * 1000)
    done = run("rollback", "toy", "--yes")
    assert done.code == 1
    assert "Traceback" not in done.err
    ledger.write_bytes(kept)
    assert run("rollback", "toy", "--yes").code == 0


def test_a_damaged_service_yaml_does_not_stop_a_rollback(run: Run, three: list[str], settings: Settings) -> None:
    """The settings that count are frozen in the bundles."""
    (settings.services / "toy" / "service.yaml").write_text("{not yaml")
    assert run("rollback", "toy", "--yes").code == 0
    assert run("doctor").code == 1


def test_completion_knows_services_and_bundles(spawn: Run, three: list[str]) -> None:
    """The shell completes the service and then its bundles."""
    services = spawn(env={"_LASTGOOD_COMPLETE": "bash_complete", "COMP_WORDS": "lastgood rollback ", "COMP_CWORD": "2"})
    assert "toy" in services.out
    bundles = spawn(env={"_LASTGOOD_COMPLETE": "bash_complete", "COMP_WORDS": "lastgood rollback toy ", "COMP_CWORD": "3"})
    assert three[0][7:19] in bundles.out


def test_a_lost_signing_key_does_not_stop_a_rollback(run: Run, three: list[str], settings: Settings) -> None:
    """The rollback is done and says that it could not be signed; doctor finds the lost key."""
    (settings.keys / "audit.key").unlink()
    assert run("rollback", "toy", "--yes").code == 0
    assert run("status", "toy", "--json").json["stable"] == three[1]
    assert run("doctor").code == 1


def test_a_dry_run_creates_nothing_and_says_what_would_be_refused(run: Run, settings: Settings, three: list[str]) -> None:
    """In an empty home no file appears; a quarantined bundle is refused as the real call would refuse it."""
    empty = settings.project / "empty"
    assert run("rollback", "toy", "--dry-run", env={"LASTGOOD_HOME": str(empty)}).code == 2
    assert not empty.exists()
    run("rollback", "toy", "--yes", "--reason", "bad")
    assert run("promote", "toy", three[2], "--dry-run").code == 4
    assert run("plan", "toy", three[2]).code == 4
    assert run("rollback", "toy", "--dry-run", "--expect", "1").code == 3


@pytest.mark.parametrize("verb", [("hold",), ("release-hold",), ("quarantine", "previous"), ("revoke", "previous")])
def test_every_changing_verb_keeps_to_the_expected_revision(run: Run, three: list[str], verb: tuple[str, ...]) -> None:
    """With --expect of an older revision nothing is changed and the code is 3."""
    name, *bundle = verb
    before = run("status", "toy", "--json").json["revision"]
    assert run(name, "toy", *bundle, "--reason", "x", "--yes", "--expect", "1").code == 3
    assert run("status", "toy", "--json").json["revision"] == before


def test_with_the_store_gone_the_truth_is_still_told(run: Run, three: list[str], settings: Settings) -> None:
    """What is committed is reported as committed, and status still says what the ledger holds."""
    settings.store.rename(settings.home / "elsewhere")
    done = run("hold", "toy", "--reason", "store is gone", "--json")
    assert done.code == 0, done.out
    assert done.json["revision"] == 10
    assert run("status", "toy", "--json").json["stable"] == three[2]
    assert run("rollback", "toy", "--yes").code == 4


def test_the_home_may_stand_in_the_settings_and_in_the_environment(run: Run, settings: Settings) -> None:
    """The environment wins, and neither makes the other an error."""
    file = settings.project / "lastgood.toml"
    file.write_text('home = "kept"\n' + file.read_text())
    assert run("doctor", "--json").json["ok"] is True
    assert run("doctor", "--json", env={"LASTGOOD_HOME": str(settings.project / "other")}).json["ok"] is True


def test_status_shows_what_the_logs_lack(run: Run, three: list[str], settings: Settings) -> None:
    """As a sentence with its remedy, and as numbers."""
    from lastgood.serving import losses

    service = "toy"
    assert run("status", service, "--json").json["losses"] == []
    assert losses.record(settings.inference(service) / "predictions", "w", lost=3, unwritable=3, why="ArrowInvalid", now=0.0)
    assert run("status", service, "--json").json["losses"] == [
        {"log": "predictions", "cause": "unwritable", "rows": 3, "why": "ArrowInvalid"}
    ]
    assert "3 rows of the log of predictions were lost" in run("status", service).out

"""The jobs `promote`, `approve` and `rollback`, run in this process on a real ledger."""

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_lastgood.jobs import verbs as jobs
from lastgood import cli, release
from lastgood.layers.receipts import Receipt
from lastgood.release import advance, convergence
from lastgood.system import processes
from pipelines.definitions import build_definitions
from tests.pipelines import world


@pytest.fixture
def home(tmp_path):
    """A home folder of lastgood."""
    return tmp_path / "home"


def run(home: Path, job: str, op: str, **config: Any) -> dg.ExecuteInProcessResult:
    """Execute *job* with *config* for its op."""
    found = build_definitions({"settings": world.settings(home)}).resolve_job_def(job)
    with dg.DagsterInstance.ephemeral() as instance:
        return found.execute_in_process({"ops": {op: {"config": config}}}, instance=instance, raise_on_error=False)


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The metadata of the op's output."""
    (output,) = [event for event in result.all_events if event.event_type_value == "STEP_OUTPUT"]
    return {name: value.value for name, value in output.step_output_data.metadata.items()}


def failure(result: dg.ExecuteInProcessResult) -> str:
    """Why the run failed, in words; nothing of our own code stands behind them that would bury them."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    assert event.step_failure_data.error.cause is None
    return event.step_failure_data.user_failure_data.description


def test_rollback_goes_back_and_says_what_it_did(home):
    """The stable bundle changes; revision, bundles and milliseconds stand in the run."""
    first, second = world.released(home, "a", "b")
    result = run(home, "rollback", "roll_back", service="flights", reason="drill", actor="on-call")
    assert result.success
    assert world.stable(home) == first
    told = metadata(result)
    assert (told["lastgood/revision"], told["from"], told["lastgood/bundle"]) == (5, second, first)
    assert told["total_ms"] > 0
    assert told["undo"].startswith("lastgood promote flights")
    with release.open_context(world.settings(home)) as ctx:
        newest = ctx.ledger.revision("flights", 5)
    assert (newest.verb, newest.reason, newest.actor) == ("rollback", "drill", "on-call")


def test_rollback_takes_a_target_by_short_id(home):
    """`to` accepts what the command line accepts."""
    first, _, _ = world.released(home, "a", "b", "c")
    assert run(home, "rollback", "roll_back", service="flights", reason="drill", to=first[7:15]).success
    assert world.stable(home) == first


def test_promote_releases_a_bundle(home):
    """A registered bundle becomes stable."""
    world.released(home, "a")
    with release.open_context(world.settings(home)) as ctx:
        digest = world.register(ctx, "b", home / "scratch")
    assert run(home, "promote", "promote", service="flights", bundle=digest[7:15], reason="better", strategy="none").success
    assert world.stable(home) == digest


def test_nothing_to_do_is_success_with_a_note(home):
    """Promoting what is already stable, as a retry does, changes nothing and is no failure."""
    (digest,) = world.released(home, "a")
    result = run(home, "promote", "promote", service="flights", bundle=digest, reason="again")
    assert result.success
    assert "already stable" in metadata(result)["nothing_to_do"]


def test_a_refusal_fails_the_run_with_the_remedy_and_is_not_retried(home):
    """A quarantined bundle is refused; trying again would not help, so Dagster must not."""
    _, bad = world.released(home, "a", "b")
    run(home, "rollback", "roll_back", service="flights", reason="drill")
    result = run(home, "promote", "promote", service="flights", bundle=bad, reason="once more")
    assert not result.success
    assert "--override-quarantine" in failure(result)
    (event,) = [event for event in result.all_events if event.is_step_failure]
    assert event.step_failure_data.user_failure_data.metadata["error"].value == "NotAllowed"
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


def test_a_rollback_with_nothing_behind_is_a_failure_that_says_what_to_do(home):
    """The only bundle there is serves: a sentence with the remedy, and nothing has changed."""
    (only,) = world.released(home, "a")
    result = run(home, "rollback", "roll_back", service="flights", reason="drill")
    assert not result.success
    assert re.search(r"no other bundle|no rollback target|never stable", failure(result)), failure(result)
    assert ";" in failure(result)
    assert world.stable(home) == only


def test_a_reason_given_lifts_the_quarantine(home):
    """`override` is the way back in for a bundle that was rolled back by mistake."""
    _, bad = world.released(home, "a", "b")
    run(home, "rollback", "roll_back", service="flights", reason="drill")
    assert run(
        home, "promote", "promote", service="flights", bundle=bad, reason="again", override="it was the network", skip_analysis=True
    ).success
    assert world.stable(home) == bad


# --- releases with phases ----------------------------------------------------------------------------------


@contextlib.contextmanager
def controller(home: Path) -> Iterator[None]:
    """The real one, as a process of its own. Without an infrastructure layer it takes every worker for ready."""
    home.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "lastgood.controller"]
    record = processes.start(argv, record=home / "run" / "controller.json", log=home / "controller.log", env=world.environment(home))
    try:
        yield
    finally:
        processes.stop(record, grace_s=20.0)


def registered(home: Path, label: str) -> str:
    """A bundle that may be released."""
    with release.open_context(world.settings(home)) as ctx:
        return world.register(ctx, label, home / "scratch")


def test_a_release_that_is_still_on_its_way_is_a_success_that_says_so(home):
    """The run waits for as long as it was told; the controller does not need it."""
    (first,) = world.released(home, "a")
    digest = registered(home, "b")
    asked = {"service": "flights", "bundle": digest, "reason": "better", "strategy": "canary:5,canary:25", "wait_s": 6.0}
    with controller(home):
        result = run(home, "promote", "promote", **asked)
    assert result.success
    told = metadata(result)
    assert (told["phase"], told["weight_pct"], told["under_way"]) == ("canary", 5.0, "the controller continues the release")
    assert world.stable(home) == first


def test_a_gate_that_takes_the_candidate_out_fails_the_run_with_its_reason(home):
    """The run says which gate, with its numbers, and is not started again."""
    (first,) = world.released(home, "a")
    digest = registered(home, "b")
    with release.open_context(world.settings(home)) as ctx:
        world.measure(ctx, "3/canary", errors=world.requests(200, 1000))  # a fifth fails, as the controller finds when it begins
    asked = {"service": "flights", "bundle": digest, "reason": "better", "strategy": "canary:5,canary:25", "wait_s": 100.0}
    with controller(home):
        result = run(home, "promote", "promote", **asked)
    assert not result.success
    assert "gate 'errors': error rate 20.0 % (200 of 1,000) against 0.5 %" in failure(result)
    (event,) = [event for event in result.all_events if event.is_step_failure]
    told = event.step_failure_data.user_failure_data.metadata
    assert (told["error"].value, told["changed"].value) == ("GateFailed", True)
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    assert world.stable(home) == first


def test_phases_that_nobody_would_measure_are_refused(home):
    """Without a controller a canary would never end; the run says how to go on, and changes nothing."""
    world.released(home, "a")
    result = run(home, "promote", "promote", service="flights", bundle=registered(home, "b"), reason="better")
    assert not result.success
    assert "lastgood up" in failure(result)
    with release.open_context(world.settings(home)) as ctx:
        assert ctx.ledger.newest("flights") == 2


def test_in_an_emergency_the_phases_are_skipped_and_the_reason_is_kept(home):
    """`skip_analysis` is for the fix that cannot wait."""
    world.released(home, "a")
    digest = registered(home, "b")
    assert run(home, "promote", "promote", service="flights", bundle=digest, reason="the fix", skip_analysis=True).success
    assert world.stable(home) == digest
    with release.open_context(world.settings(home)) as ctx:
        proposed = ctx.ledger.revision("flights", 3)
    assert (proposed.reason, proposed.evidence["skipped"]) == ("the fix", True)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"reason": " ", "skip_analysis": True}, "skip_analysis requires a reason"),
        ({"reason": "x", "strategy": "blue"}, "'blue' is not a strategy: phase 1: "),
        ({"reason": "x", "strategy": "canary"}, "weight_pct: Field required"),
        ({"reason": "x", "strategy": "approval:3"}, "percentage: Extra inputs"),
        ({"reason": "x", "strategy": "canary:25,canary:5"}, "weight_pct must increase"),
    ],
)
def test_a_way_that_makes_no_sense_is_refused(home, config, said):
    """The message says which phase, what is wrong, and how to write it; nothing changes."""
    (only,) = world.released(home, "a")
    result = run(home, "promote", "promote", service="flights", bundle=registered(home, "b"), **config)
    assert said in failure(result)
    assert world.stable(home) == only


def test_approve_lets_the_candidate_through(home):
    """Who and why stand in the history; the controller then cuts over."""
    world.released(home, "a")
    digest = registered(home, "b")
    with release.open_context(world.settings(home)) as ctx:
        world.in_canary(ctx, digest, phases="approval")
    result = run(home, "approve", "approve", service="flights", reason="looks good", actor="jo")
    assert result.success
    assert (metadata(result)["phase"], metadata(result)["under_way"]) == ("approval", "the controller continues the release")
    with release.open_context(world.settings(home)) as ctx:
        newest = ctx.ledger.revision("flights", 5)
        advance.advance(ctx, "flights", ready={digest}, judged_at=5, actor="controller")
    assert (newest.verb, newest.reason, newest.actor, newest.state.approved) == ("approve", "looks good", "jo", True)
    assert world.stable(home) == digest


def test_an_approval_that_nobody_waits_for_is_success_with_a_note(home):
    """A second click on the job changes nothing."""
    world.released(home, "a")
    result = run(home, "approve", "approve", service="flights", reason="looks good")
    assert result.success
    assert "no release of 'flights' is in progress" in metadata(result)["nothing_to_do"]


def test_an_approval_needs_a_reason(home):
    """It is kept for ever, so it must say something."""
    world.released(home, "a")
    with release.open_context(world.settings(home)) as ctx:
        world.in_canary(ctx, world.register(ctx, "b", home / "scratch"), phases="approval")
    assert "requires a reason" in failure(run(home, "approve", "approve", service="flights", reason=""))


# --- refusals ----------------------------------------------------------------------------------------------


def test_a_stale_plan_is_refused(home):
    """With `expected`, whoever decided on an older revision is told what changed since."""
    _, second = world.released(home, "a", "b")
    result = run(home, "rollback", "roll_back", service="flights", reason="drill", expected=2)
    assert not result.success
    assert "has changed since revision 2" in failure(result)
    assert world.stable(home) == second


@pytest.fixture
def command(monkeypatch, capsys):
    """Run `lastgood ARGS --yes --json` on a home in this process; what it answers."""

    def call(home: Path, *args: str) -> dict[str, Any]:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            for name, value in world.environment(home).items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit):
                cli.main([*args, "--yes", "--json"])
        return json.loads(capsys.readouterr().out)

    return call


def refusal(result: dg.ExecuteInProcessResult) -> tuple[str, str]:
    """Which error ended the run, and its words."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    return event.step_failure_data.user_failure_data.metadata["error"].value, failure(result)


def refusals(home: Path) -> list[Any]:
    """What the audit trail says of things that a rule forbade."""
    with release.open_context(world.settings(home)) as ctx:
        return list(ctx.ledger.notes("flights", kind="refusal"))


@pytest.mark.parametrize("about", ["candidate", "quarantined"])
def test_an_outdated_plan_of_a_promotion_is_refused_as_by_the_command(home, command, about):
    """Before anything else is said of the bundle: not that it is on its way already, nor that it may not be released."""
    _, other = world.released(home, "a", "b")
    if about == "candidate":
        with release.open_context(world.settings(home)) as ctx:
            other = world.register(ctx, "c", home / "scratch")
            world.in_canary(ctx, other)
    else:
        command(home, "rollback", "flights", "--reason", "bad")
    said = command(home, "promote", "flights", other, "--reason", "go", "--expect", "2")
    result = run(home, "promote", "promote", service="flights", bundle=other, reason="go", expected=2, wait_s=0)
    assert not result.success
    assert refusal(result) == (said["error"], said["message"]) == ("Conflict", said["message"])
    assert "has changed since revision 2" in said["message"]
    assert refusals(home) == []


@pytest.mark.parametrize("to", [None, "first"])
def test_an_outdated_plan_of_a_rollback_is_refused_as_by_the_command(home, command, to):
    """With a target and without."""
    first, second = world.released(home, "a", "b")
    named = (first,) if to else ()
    said = command(home, "rollback", "flights", *named, "--reason", "go", "--expect", "2")
    result = run(home, "rollback", "roll_back", service="flights", reason="go", expected=2, **({"to": first} if to else {}))
    assert refusal(result) == (said["error"], said["message"]) == ("Conflict", said["message"])
    assert world.stable(home) == second


def test_a_promotion_that_somebody_overtakes_is_refused_as_by_the_command(tmp_path, command, monkeypatch):
    """What was read at the start is the plan: another bundle that is stable by the time of the decision is a conflict."""
    homes = tmp_path / "command", tmp_path / "job"
    real = release.propose

    def overtaken(ctx, service, *given, **asked):
        monkeypatch.setattr(release, "propose", real)
        convergence.promote(ctx, service, others[ctx.settings.home], reason="faster", actor="ann", way=world.AT_ONCE)
        return real(ctx, service, *given, **asked)

    others, wanted = {}, ""
    for home in homes:
        world.released(home, "a")
        with release.open_context(world.settings(home)) as ctx:
            wanted, others[ctx.settings.home] = (world.register(ctx, label, home / "scratch") for label in ("b", "c"))
    monkeypatch.setattr(release, "propose", overtaken)
    said = command(homes[0], "promote", "flights", wanted, "--reason", "go", "--strategy", "none")
    monkeypatch.setattr(release, "propose", overtaken)
    result = run(homes[1], "promote", "promote", service="flights", bundle=wanted, reason="go", strategy="none")
    assert refusal(result) == (said["error"], said["message"]) == ("Conflict", said["message"])
    assert "by ann: " in said["message"]
    assert {world.stable(home) for home in homes} == set(others.values())


@pytest.mark.parametrize(
    ("job", "op", "config", "said"),
    [
        ("promote", "promote", {"service": "flights", "bundle": "feedface", "reason": "x"}, "feedface"),
        ("rollback", "roll_back", {"service": "flights", "reason": "x", "to": "feedface"}, "feedface"),
        ("rollback", "roll_back", {"service": "nobody", "reason": "x"}, "nobody"),
    ],
)
def test_unknown_names_are_named(home, job, op, config, said):
    """An unknown bundle or service fails the run with its name; nothing changes."""
    (only,) = world.released(home, "a")
    result = run(home, job, op, **config)
    if result.success:
        assert said in metadata(result)["nothing_to_do"]
    else:
        assert said in failure(result)
    assert world.stable(home) == only


def test_a_run_without_its_configuration_is_refused_before_it_starts(home):
    """No service, no guess."""
    found = build_definitions({"settings": world.settings(home)}).resolve_job_def("rollback")
    with pytest.raises(dg.DagsterInvalidConfigError):
        found.execute_in_process({"ops": {"roll_back": {"config": {"reason": "drill"}}}})


def test_a_run_that_waited_too_long_changes_nothing(home, monkeypatch):
    """A rollback that was queued last night must not start when somebody opens the UI in the morning."""
    _, second = world.released(home, "a", "b")
    monkeypatch.setattr(jobs, "STALE_S", -1.0)
    result = run(home, "rollback", "roll_back", service="flights", reason="drill")
    assert not result.success
    assert "launch the run again if it is still wanted" in failure(result)
    assert world.stable(home) == second


def test_a_layer_that_lags_behind_is_shown_and_does_not_fail_the_run(tmp_path):
    """Without a controller, MLflow follows later; the rollback itself is done."""
    home = tmp_path / "home"
    first, _ = world.released(home, "a", "b")
    settings = world.settings(home, LASTGOOD_LAYERS_REGISTRY="mlflow")
    job = build_definitions({"settings": settings}).resolve_job_def("rollback")
    result = job.execute_in_process({"ops": {"roll_back": {"config": {"service": "flights", "reason": "drill"}}}})
    assert result.success
    assert world.stable(home) == first
    (layer,) = metadata(result)["layers"].records
    assert (layer.data["layer"], layer.data["status"]) == ("registry", "lagging")


def test_traffic_that_does_not_follow_fails_the_run_and_warns_against_a_second_one(home):
    """The change is committed, so the remedy is to look, not to roll back once more."""
    world.released(home, "a")
    with release.open_context(world.settings(home)) as ctx:
        newest = ctx.ledger.revision("flights", 2)
    told = Receipt(layer="traffic", status="failed", desired_revision=2, observed_revision=1, ms=1.0, at=0.0, detail="envoy is gone")
    outcome = convergence.Outcome(
        service="flights",
        verb="rollback",
        before=newest.state,
        revision=newest,
        receipts=(told,),
        commit_ms=1.0,
        traffic_ms=None,
        total_ms=2.0,
    )

    @dg.op
    def tell(context: dg.OpExecutionContext) -> None:
        jobs.report(context, lambda: outcome)

    @dg.job
    def telling() -> None:
        tell()

    result = telling.execute_in_process(raise_on_error=False)
    assert not result.success
    assert "revision 2 is committed, but traffic has not followed; do not run this again" in failure(result)

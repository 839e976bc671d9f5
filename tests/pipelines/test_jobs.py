"""The jobs `promote` and `rollback`, run in this process on a real ledger."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from lastgood import converge, release
from lastgood.layers.receipts import Receipt
from pipelines import jobs
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
    """Why the run failed, in words."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
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
    assert run(home, "promote", "promote", service="flights", bundle=digest[7:15], reason="better").success
    assert world.stable(home) == digest


def test_nothing_to_do_is_success_with_a_note(home):
    """Promoting what is stable already, as a retry does, changes nothing and is no failure."""
    (digest,) = world.released(home, "a")
    result = run(home, "promote", "promote", service="flights", bundle=digest, reason="again")
    assert result.success
    assert "stable already" in metadata(result)["nothing_to_do"]


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


def test_a_reason_given_lifts_the_quarantine(home):
    """`override` is the way back in for a bundle that was rolled back by mistake."""
    _, bad = world.released(home, "a", "b")
    run(home, "rollback", "roll_back", service="flights", reason="drill")
    assert run(home, "promote", "promote", service="flights", bundle=bad, reason="again", override="it was the network").success
    assert world.stable(home) == bad


def test_a_stale_plan_is_refused(home):
    """With `expected`, whoever decided on an older revision is told what changed since."""
    _, second = world.released(home, "a", "b")
    result = run(home, "rollback", "roll_back", service="flights", reason="drill", expected=2)
    assert not result.success
    assert "has moved on since revision 2" in failure(result)
    assert world.stable(home) == second


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
    assert "launch it again if it is still wanted" in failure(result)
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
    outcome = converge.Outcome(
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

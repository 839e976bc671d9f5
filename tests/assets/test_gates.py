"""The gates of a service as asset checks: which there are, what a verdict comes to, and what executing one by hand tells."""

import dataclasses
import time
from pathlib import Path

import dagster as dg
import pytest

from dagster_lastgood import gate_checks as gates
from dagster_lastgood import parts
from lastgood import release
from lastgood.analysis import follow
from lastgood.gates import base
from lastgood.release import advance
from lastgood.service import gates as service_gates
from pipelines.definitions import build_definitions
from tests.pipelines import world

VERDICT = base.Verdict(
    gate="errors",
    metric="error_rate",
    kind="guardrail",
    outcome="fail",
    cause="sequential",
    why="too many",
    at=0.0,
    n=7,
    evidence=float("inf"),
    interval=(0.01, 0.2),
)


def said(**changes: object) -> dg.AssetCheckEvaluation:
    """The check's result for a verdict like VERDICT."""
    return gates.evaluation("flights", follow.Said(verdict=dataclasses.replace(VERDICT, **changes), bundle="sha256:feed"))


@pytest.mark.parametrize(
    ("outcome", "kind", "passed", "severity", "words"),
    [
        ("pass", "guardrail", True, "WARN", "too many"),
        ("fail", "guardrail", False, "ERROR", "failed: too many"),
        ("fail", "signal", False, "WARN", "failed: too many"),
        ("fail", "observe", False, "WARN", "failed: too many"),
    ],
)
def test_only_a_pass_passes_and_only_a_failed_guardrail_is_an_error(outcome, kind, passed, severity, words):
    """All other failures warn."""
    result = said(outcome=outcome, kind=kind)
    assert (result.passed, result.severity.value, result.description) == (passed, severity, words)


def test_a_gate_that_cannot_tell_is_not_evaluated():
    """It has neither passed nor failed, and Dagster knows nothing between the two."""
    answers = [follow.Said(verdict=dataclasses.replace(VERDICT, outcome=one), bundle="sha256:feed") for one in ("inconclusive", "fail")]
    assert [one.passed for one in gates.evaluations("flights", answers)] == [False]


def test_the_description_of_a_check_says_the_unit_of_its_evidence():
    """Of gates that test chance; the others have no evidence."""
    told = {spec.name: spec.description for spec in gates.specs("flights")}
    assert {name for name, text in told.items() if "`evidence` is log10 of the e-value" in text} == {
        "errors",
        "split",
        "latency",
        "quality",
        "alike",
    }


def test_figures_that_are_no_numbers_are_left_out():
    """Dagster keeps what it can plot: no infinity, nothing that is not known."""
    metadata = {name: one.value for name, one in said().metadata.items()}
    assert (metadata["n"], metadata["interval"]) == (7, "0.01 to 0.2")
    assert {"evidence", "estimate", "needs"}.isdisjoint(metadata)


def test_every_gate_of_service_yaml_is_a_check_with_its_kind():
    """Those that every service has, and the service's own."""
    assert {spec.name: spec.description.split(":")[0] for spec in gates.specs("flights")} == {
        "errors": "guardrail",
        "oom": "guardrail",
        "ejections": "guardrail",
        "split": "signal",
        "latency": "guardrail",
        "quality": "guardrail",
        "alike": "observe",
    }


def test_a_service_yaml_that_cannot_be_read_leaves_the_default_gates(tmp_path, monkeypatch):
    """A broken service must not keep the code location, with the job rollback in it, from loading."""
    monkeypatch.setenv("LASTGOOD_PROJECT", str(tmp_path))
    folder = tmp_path / "services" / "flights"
    folder.mkdir(parents=True)
    (folder / "service.yaml").write_text("gates: [", "utf-8")
    assert [spec.name for spec in gates.specs("flights")] == list(service_gates.DEFAULTS)


def execute(home: Path, *names: str) -> dict[str, dg.AssetCheckEvaluation]:
    """What a person gets who executes these checks in the UI."""
    definitions = build_definitions({"settings": world.settings(home)})
    wanted = {dg.AssetCheckKey(parts.release_key("flights"), name) for name in names}
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_check_selection=wanted)
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance)
    assert result.success
    return {found.check_name: found for found in result.get_asset_check_evaluations()}


def test_executing_a_check_tells_what_the_gate_says_now(tmp_path):
    """It measures nothing; the ledger has what the controller measured. One that was not asked for is not told."""
    home = tmp_path / "home"
    world.released(home, "a")
    with release.open_context(world.settings(home)) as ctx:
        digest = world.register(ctx, "b", home / "scratch")
        world.measure(ctx, f"{world.in_canary(ctx, digest)}/canary", errors=world.requests(15, 3000))
    found = execute(home, "errors", "quality")
    assert {name: one.passed for name, one in found.items()} == {"errors": True}  # of quality nobody can tell
    assert found["errors"].metadata["lastgood/bundle"].value == digest


def test_executing_a_check_after_a_rollback_still_tells_why(tmp_path):
    """A gate that stable is not asked about keeps the answer that took the candidate out."""
    home = tmp_path / "home"
    world.released(home, "a")
    with release.open_context(world.settings(home)) as ctx:
        digest = world.register(ctx, "b", home / "scratch")
        analysis = f"{world.in_canary(ctx, digest)}/canary"
        ejected = base.Observation(at=time.time(), watched=base.Tally(n=1, value=1.0))
        world.measure(ctx, analysis, ejections=ejected)
        state = ctx.ledger.state("flights")
        verdicts_ = {gate: said.verdict for gate, said in follow.standing(ctx, state, now=time.time()).items()}
        ready = {digest, state.stable}
        done = advance.advance(ctx, "flights", ready=ready, verdicts=verdicts_, judged_at=state.revision, actor="controller")
    assert done.revision.verb == "rollback"
    found = execute(home, "ejections")["ejections"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert found.metadata["lastgood/bundle"].value == digest


def test_executing_a_check_that_has_judged_nothing_is_no_failure(tmp_path):
    """Dagster shows it as skipped, neither passed nor failed."""
    home = tmp_path / "home"
    world.released(home, "a")
    assert execute(home, "split", "alike") == {}

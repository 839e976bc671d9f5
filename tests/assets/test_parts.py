"""How parts find their bundle when runs overlap, are retried, or are picked one by one."""

import dagster as dg
import pytest

from dagster_lastgood import parts
from lastgood.bundle import manifest


class Label(dg.Config):
    """What the part of this run holds."""

    label: str
    meanwhile: bool = False


@dg.asset(key=["flights", "data"])
def data(context: dg.AssetExecutionContext, config: Label) -> dg.MaterializeResult:
    """A part whose content is its label."""
    digest = manifest.sha256(config.label.encode())
    part = manifest.Part(name="data", digest=digest, size=1, media_type="text/plain", uri=f"store:{digest}", meta={"label": config.label})
    return parts.result(context, part, provenance={"label": config.label}, metadata={})


@dg.asset(key=["flights", "between"], deps=[data])
def between(context: dg.AssetExecutionContext, config: Label) -> None:
    """While the first run is under way, a second one makes the part anew."""
    if config.meanwhile:
        assert run(context.instance, "second").success


@dg.asset(key=["flights", "last"], deps=[between])
def last(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Says which part it found."""
    found = parts.made(context, "flights", "data")
    return dg.MaterializeResult(metadata={"label": found.part.meta["label"], "run": found.provenance["dagster_run"]})


def run(instance: dg.DagsterInstance, label: str, *, meanwhile: bool = False) -> dg.ExecuteInProcessResult:
    """Make all three; with *meanwhile* another run does so in between."""
    config = {"ops": {name: {"config": {"label": label, "meanwhile": meanwhile}} for name in ("flights__data", "flights__between")}}
    return dg.materialize([data, between, last], instance=instance, run_config=config)


def found(result: dg.ExecuteInProcessResult) -> str:
    """The label that the last asset of a run found."""
    (made,) = result.asset_materializations_for_node("flights__last")
    return str(made.metadata["label"].value)


@pytest.fixture
def instance(tmp_path):
    """A Dagster instance on disk."""
    with dg.instance_for_test(temp_dir=str(tmp_path)) as made:
        yield made


def test_a_run_takes_its_own_parts_though_another_one_made_newer_ones_meanwhile(instance):
    """Two builds that overlap do not mix: each bundle holds what its own run made."""
    assert found(run(instance, "first", meanwhile=True)) == "first"
    newest = instance.get_latest_materialization_event(dg.AssetKey(["flights", "data"]))
    assert newest.asset_materialization.metadata[parts.PART].value["meta"] == {"label": "second"}


def test_a_step_that_runs_alone_takes_the_newest_part(instance):
    """One asset picked in the UI uses what was made last."""
    run(instance, "old")
    run(instance, "new")
    alone = dg.materialize([data.to_source_assets()[0], between.to_source_assets()[0], last], instance=instance, selection=[last])
    assert found(alone) == "new"


def test_a_step_without_its_part_says_what_to_do(instance):
    """Nothing was ever made: no guess, no stack trace to read."""
    run = dg.materialize([last], instance=instance, raise_on_error=False)
    (event,) = [event for event in run.all_events if event.is_step_failure]
    assert "flights/data has not been materialized; materialize it first" in event.step_failure_data.user_failure_data.description


def test_a_code_version_follows_the_code_and_survives_its_absence():
    """Missing files must not keep the code location, and with it the job rollback, from loading."""
    assert parts.code_version("README.md", "no/such/file") == parts.code_version("README.md", "nor/this/one")
    assert parts.code_version("dvc.yaml") != parts.code_version("params.yaml")

"""What the code location consists of, and what loading it costs."""

import json
import subprocess
import sys

import dagster as dg
from dagster._core.run_coordinator import DefaultRunCoordinator

from dagster_lastgood import home
from pipelines.definitions import build_definitions, defs
from tests.pipelines import world

HEAVY = ("mlflow", "sklearn", "pandas", "numpy", "pyarrow", "great_expectations", "evidently", "dvc", "matplotlib", "langgraph", "skops")


def test_the_code_location_loads():
    """Everything in it resolves: dependencies, resources, configuration."""
    dg.Definitions.validate_loadable(defs)


def test_its_names_are_the_ones_that_people_and_scripts_use():
    """A renamed asset, job, check or sensor breaks someone's dashboard or runbook; this list changes only on purpose."""
    assert sorted(key.to_user_string() for key in defs.resolve_all_asset_keys()) == [
        "flights/bundle",
        "flights/config",
        "flights/data",
        "flights/drift",
        "flights/environment",
        "flights/model",
        "flights/release",
        "flights/source",
        "helpdesk/bundle",
        "helpdesk/config",
        "helpdesk/corpus",
        "helpdesk/drift",
        "helpdesk/environment",
        "helpdesk/evaluation",
        "helpdesk/index",
        "helpdesk/model",
        "helpdesk/prompt",
        "helpdesk/release",
        "helpdesk/source",
    ]
    assert sorted(job.name for job in defs.resolve_all_job_defs() if not job.name.startswith("__")) == [
        "approve",
        "build",
        "build_helpdesk",
        "drift_report",
        "evaluate_rollback",
        "promote",
        "retrain",
        "rollback",
    ]
    assert [schedule.name for schedule in defs.schedules] == ["flights_drift_report", "helpdesk_drift_report"]
    assert [sensor.name for sensor in defs.sensors] == [
        "release_mirror",
        "rollout_mirror",
        "model_liveness",
        "drift_watch",
        "new_data",
        "new_candidate",
    ]
    assert sorted(f"{check.asset_key.to_user_string()}:{check.name}" for check in defs.resolve_asset_graph().asset_check_keys) == [
        "flights/bundle:verifies",
        "flights/data:categories",
        "flights/data:leakage",
        "flights/data:nulls",
        "flights/data:ranges",
        "flights/data:schema",
        "flights/drift:categories",
        "flights/drift:nulls",
        "flights/drift:ranges",
        "flights/drift:schema",
        "flights/model:limits",
        "flights/release:alike",
        "flights/release:ejections",
        "flights/release:errors",
        "flights/release:latency",
        "flights/release:oom",
        "flights/release:quality",
        "flights/release:split",
        "helpdesk/bundle:verifies",
        "helpdesk/corpus:duplicate",
        "helpdesk/corpus:empty",
        "helpdesk/corpus:oversized",
        "helpdesk/corpus:secrets",
        "helpdesk/drift:questions",
        "helpdesk/drift:schema",
        "helpdesk/evaluation:limits",
        "helpdesk/index:replica",
        "helpdesk/release:alike",
        "helpdesk/release:ejections",
        "helpdesk/release:errors",
        "helpdesk/release:helpful",
        "helpdesk/release:latency",
        "helpdesk/release:oom",
        "helpdesk/release:refusals",
        "helpdesk/release:split",
    ]


def test_the_lineage_leads_from_data_to_release():
    """data -> model -> bundle -> release, with config and environment joining at the bundle; of helpdesk by way of index and evaluation."""
    graph = defs.resolve_asset_graph()
    parents = {key.path[0]: {} for key in graph.get_all_asset_keys()}
    for key in graph.get_all_asset_keys():
        assert {parent.path[0] for parent in graph.get(key).parent_keys} <= {key.path[0]}
        parents[key.path[0]][key.path[-1]] = {parent.path[-1] for parent in graph.get(key).parent_keys}
    assert parents["helpdesk"] == {
        "source": set(),
        "corpus": {"source"},
        "model": set(),
        "prompt": set(),
        "config": set(),
        "environment": set(),
        "index": {"corpus", "model"},
        "evaluation": {"corpus", "model", "prompt", "index", "config"},
        "bundle": {"corpus", "model", "prompt", "index", "config", "environment", "evaluation"},
        "release": {"bundle"},
        "drift": {"release"},
    }
    assert parents["flights"] == {
        "source": set(),
        "data": {"source"},
        "config": set(),
        "environment": set(),
        "model": {"data"},
        "bundle": {"data", "model", "config", "environment"},
        "release": {"bundle"},
        "drift": {"release"},
    }


def test_every_asset_says_what_it_is_whose_it_is_and_which_code_makes_it():
    """Without a code version, Dagster would call every asset stale after every run."""
    for spec in defs.resolve_all_asset_specs():
        assert spec.description
        assert spec.group_name == spec.key.path[0]
        assert spec.owners == [f"team:{spec.group_name}-on-call"]
        assert spec.code_version or spec.key.path[-1] in ("release", "drift", "source")


def test_every_check_of_a_build_blocks_what_follows_it():
    """A failed check stops its run before the next part is made. Nothing follows a gate or a window: the controller acts on it."""
    specs = [spec for checks in defs.asset_checks for spec in checks.check_specs]
    assert {spec.key.asset_key.path[-1] for spec in specs if not spec.blocking} == {"release", "drift"}
    assert {spec.key.asset_key.path[-1] for spec in specs if spec.blocking} == {"data", "model", "bundle", "corpus", "index", "evaluation"}


def test_a_rollback_waits_for_nothing_and_is_never_started_twice():
    """No pool, no concurrency tag, no retry by Dagster: a second start would go back one bundle further."""
    job = defs.resolve_job_def("rollback")
    assert dict(job.tags) == {"dagster/max_retries": "0"}
    assert job.get_node_named("roll_back").definition.pool is None
    assert job.executor_def.name == "in_process"


def test_resources_can_be_replaced():
    """`build_definitions` puts a test's own resource in the place of ours."""
    assert build_definitions({"settings": "mine"}).resources["settings"] == "mine"


def test_loading_imports_no_heavy_library():
    """Every hop of `dagster job launch` loads this code; one ML import at module level costs a rollback ten seconds."""
    code = f"import sys, json, pipelines.definitions; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=world.PROJECT, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(answer.stdout) == []


def test_string_selections_work():
    """With the antlr runtime that DVC used to force, every string selection died in `ord()`; the lock keeps a newer one."""
    graph = defs.resolve_asset_graph()
    assert len(dg.AssetSelection.from_string('key:"flights/data"+').resolve(graph)) == 5


def test_a_prepared_home_starts_runs_at_once_and_keeps_what_was_changed_in_it(tmp_path, capsys):
    """A home gets our dagster.yaml once, with databases; a second preparation changes nothing."""
    made = home.prepare(tmp_path / "dagster")
    assert capsys.readouterr().out == ""
    with dg.DagsterInstance.from_config(str(made)) as instance:
        assert isinstance(instance.run_coordinator, DefaultRunCoordinator)
        assert instance.get_runs_count() == 0
    (made / "dagster.yaml").write_text("telemetry: {enabled: false}\n", "utf-8")
    home.prepare(made)
    assert (made / "dagster.yaml").read_text("utf-8") == "telemetry: {enabled: false}\n"


def test_a_home_without_dagster_yaml_is_pointed_out(tmp_path, monkeypatch, capsys):
    """Dagster itself queues runs there without a word."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    home.warn_if_runs_would_wait()
    assert f"{tmp_path} has no dagster.yaml" in capsys.readouterr().err
    home.prepare(tmp_path)
    capsys.readouterr()
    home.warn_if_runs_would_wait()
    assert capsys.readouterr().err == ""

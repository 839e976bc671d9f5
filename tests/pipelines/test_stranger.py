"""Somebody else's Dagster project, in an empty folder, with nothing of this clone but the wheel.

The packages that the wheel needs are those of this environment; its own modules come from the wheel alone.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "own-service.md"
pytestmark = pytest.mark.timeout(300)

LIST = """
import json
from my_project.definitions import defs
import dagster as dg, dagster_lastgood, lastgood
repository = defs.get_repository_def()
print(json.dumps({
    "from": [dagster_lastgood.__file__, lastgood.__file__],
    "assets": sorted(spec.key.to_user_string() for spec in defs.resolve_all_asset_specs()),
    "checks": sorted(f"{key.asset_key.to_user_string()}:{key.name}" for key in repository.asset_graph.asset_check_keys),
    "sensors": sorted(sensor.name for sensor in repository.sensor_defs),
    "jobs": sorted(job.name for job in repository.get_all_jobs() if not job.name.startswith("__")),
}))
"""

TRAINED = """
import json
import dagster as dg, mlflow
from lastgood import settings
client = mlflow.MlflowClient(tracking_uri=settings.load().tracking_uri)
(run,) = client.search_runs([client.get_experiment_by_name("lastgood").experiment_id])
with dg.DagsterInstance.get() as instance:
    made = instance.get_latest_materialization_event(dg.AssetKey(["tumour", "model"])).asset_materialization.metadata
    key = dg.AssetCheckKey(dg.AssetKey(["tumour", "data"]), "ranges")
    (checked,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=9)
print(json.dumps({
    "status": run.info.status,
    "metrics": sorted(run.data.metrics),
    "datasets": [used.dataset.name for used in run.inputs.dataset_inputs],
    "model": run.data.tags["lastgood.part.model"],
    "part": made["lastgood/digest"].value,
    "check": checked.evaluation.passed,
}))
"""

TWO = """
import json
import os
import dagster as dg
from dagster_lastgood.sensors import drift_watch
from my_project.definitions import defs
from lastgood import release
from lastgood import settings as settings_
from lastgood.serving import inference_log, segments
from lastgood.system import clock
from services.tumour.runtime import Row

settings, began, repository = settings_.load(), clock.now(), defs.get_repository_def()
retrained, bundles = {}, {}
with dg.DagsterInstance.get() as instance:
    for service in ("biopsy", "tumour"):
        asked = {"ops": {"retrain": {"config": {"service": service, "reason": "a test", "wait_s": 0.0}}}}
        done = repository.get_job("retrain").execute_in_process(asked, instance=instance, raise_on_error=False)
        with release.open_context(settings, read_only=True) as ctx:
            bundles = {name: ctx.ledger.state(name).stable for name in ("biopsy", "tumour")}
        retrained[service] = [done.success, sorted(name for name, stable in bundles.items() if stable)]
    for service, bundle in bundles.items():
        row = Row(mean_radius=500.0 if service == "biopsy" else 14.0, mean_texture=19.0, mean_smoothness=0.1)
        rows = [
            answered
            for n in range(400)
            for answered in inference_log.Answered(
                request_id=f"{service}-{n}", at=began + 30.0 * n, bundle=bundle, arm="stable", shadow=False, latency_us=900,
                rows=[row], outputs=[{"probability": 0.5}],
            ).as_rows()
        ]
        folder = settings.inference(service) / inference_log.PREDICTIONS / segments.day_name(began)
        name = segments.segment_name("worker-1-abcd", 1, 1)
        segments.write_segment(inference_log.table_maker(Row)(rows), folder, name=name)
        os.utime(folder / name, (began + 3 * 3600.0,) * 2)  # a segment is written after what it holds
    clock.now = lambda: began + 3 * 3600.0
    drift_watch.BUDGET_S = 600.0  # a busy machine takes longer for the windows of two services than a tick may
    sensor = repository.get_sensor_def("drift_watch")
    with dg.build_sensor_context(instance=instance, resources={"settings": settings}) as context:
        answer = sensor(context)
events = getattr(answer, "asset_events", [])
judged = {
    event.asset_key.to_user_string(): event.passed for event in events if isinstance(event, dg.AssetCheckEvaluation) and event.check_name == "ranges"
}
print(json.dumps({"retrained": retrained, "judged": judged, "skipped": getattr(answer, "skip_message", "")}))
"""

COMPONENT = """
import dagster as dg
from pathlib import Path
defs = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""


class Stranger:
    """A folder with a Dagster project of its own, and the environment it runs in."""

    def __init__(self, root: Path, wheel: Path) -> None:
        self.root = root / "work"
        self.root.mkdir()
        venv.create(root / "venv", with_pip=False, symlinks=True)
        self.python = root / "venv" / "bin" / "python"
        (site,) = (root / "venv" / "lib").glob("python*/site-packages")
        with zipfile.ZipFile(wheel) as opened:
            opened.extractall(site)
        # A folder that a .pth names is searched, and the .pth files in it are not read: so the clone is not found.
        (site / "packages.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", "utf-8")
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("LASTGOOD_P", "PYTHONPATH", "DAGSTER_HOME"))}
        self.env = {**keep, "DAGSTER_HOME": str(self.root / "dagster"), "DAGSTER_DISABLE_TELEMETRY": "1"}

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """`python ARGV` in the folder."""
        return subprocess.run([self.python, *argv], cwd=self.root, env=self.env, capture_output=True, text=True, check=False, timeout=200)

    def ok(self, *argv: str) -> str:
        """Its output, if it ended well."""
        done = self.run(*argv)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def listed(self) -> dict[str, Any]:
        """What the code location shows."""
        found: dict[str, Any] = json.loads(self.ok("-c", LIST).splitlines()[-1])
        return found


def blocks() -> list[str]:
    """The YAML and Python of the page: service.yaml, runtime.py, functions, checks and training, `build_definitions`, one component, several."""
    return re.findall(r"```(?:yaml|python)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=100)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def stranger(tmp_path: Path, wheel: Path) -> Stranger:
    """The service of docs/own-service.md: its two files, and its functions in a module of the project."""
    made = Stranger(tmp_path, wheel)
    manifest, runtime, functions, *_, component, _ = blocks()
    files = {
        "lastgood.toml": '[layers]\nregistry = ""\n',
        "requirements.lock": "scikit-learn==1\n",
        "services/tumour/service.yaml": manifest,
        "services/tumour/runtime.py": runtime,
        "my_project/__init__.py": "",
        "my_project/tumour.py": functions,
        "my_project/definitions.py": "from dagster_lastgood import build_definitions\nfrom my_project.tumour import SERVICE\n\n"
        "defs = build_definitions([SERVICE])\n",
        "component.yaml": component,
    }
    for name, text in files.items():
        (made.root / name).parent.mkdir(parents=True, exist_ok=True)
        (made.root / name).write_text(text, "utf-8")
    return made


SHOWN = {
    "assets": [f"tumour/{name}" for name in ("bundle", "config", "data", "drift", "environment", "model", "release")],
    "sensors": ["drift_watch", "model_liveness", "new_candidate", "new_data", "release_mirror", "rollout_mirror"],
    "jobs": ["approve", "build_tumour", "drift_report", "evaluate_rollback", "promote", "retrain", "rollback"],
}


def test_one_service_is_shown_built_and_refused_a_rollback(stranger: Stranger) -> None:
    """Assets, checks, sensors and jobs; the build registers a bundle; a rollback of nothing says so in a sentence, with the remedy."""
    told = stranger.listed()
    assert all(str(ROOT) not in path for path in told["from"]), "the clone was imported"
    assert {name: told[name] for name in SHOWN} == SHOWN
    assert {"tumour/model:limits", "tumour/bundle:verifies", "tumour/release:errors"} <= set(told["checks"])
    stranger.ok("-m", "dagster_lastgood.home")
    stranger.ok("-m", "dagster", "job", "execute", "-m", "my_project.definitions", "-j", "build_tumour")
    assert len(json.loads(stranger.ok("-m", "lastgood", "bundle", "list", "tumour", "--json"))["bundles"]) == 1
    asked = {"ops": {"roll_back": {"config": {"service": "nosuch", "reason": "a test"}}}}
    (stranger.root / "run.json").write_text(json.dumps(asked), "utf-8")
    done = stranger.run("-m", "dagster", "job", "execute", "-m", "my_project.definitions", "-j", "rollback", "-c", "run.json")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "lastgood.errors" not in said, "the traceback of our own error buries the sentence"
    assert re.search(r"Failure: .*nosuch.* has never been released.*build a bundle of 'nosuch' first", said), said[-3000:]


def test_sixty_lines_check_their_data_and_write_their_training_down(stranger: Stranger) -> None:
    """A tabular service, with Great Expectations and MLflow, is as short as the page says, and runs."""
    _, _, functions, more, *_ = blocks()
    whole = functions[: functions.index("\nSERVICE = ")] + more
    assert len(whole.splitlines()) <= 60
    (stranger.root / "my_project" / "tumour.py").write_text(whole, "utf-8")
    assert "tumour/data:ranges" in stranger.listed()["checks"]
    stranger.ok("-m", "dagster_lastgood.home")
    stranger.ok("-m", "dagster", "job", "execute", "-m", "my_project.definitions", "-j", "build_tumour")
    told = json.loads(stranger.ok("-c", TRAINED).splitlines()[-1])
    assert told["status"] == "FINISHED"
    assert told["metrics"] == ["auc"]
    assert told["datasets"] == ["tumour train.parquet"]
    assert told["model"] == told["part"]
    assert told["check"] is True


def components(stranger: Stranger, files: Mapping[str, str]) -> None:
    """Make the folder of components from *files*: YAML by the name of its folder."""
    for name, text in files.items():
        folder = stranger.root / "my_project" / "defs" / name
        folder.mkdir(parents=True)
        (folder / "defs.yaml").write_text(text, "utf-8")
    (stranger.root / "my_project" / "defs" / "__init__.py").write_text("", "utf-8")
    (stranger.root / "pyproject.toml").write_text(
        '[project]\nname = "my-project"\nversion = "1"\n[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "my_project"\n',
        "utf-8",
    )
    (stranger.root / "my_project" / "definitions.py").write_text(COMPONENT, "utf-8")


def test_a_component_is_a_service(stranger: Stranger) -> None:
    """The YAML block of the page, in a folder of components, shows the same."""
    components(stranger, {"tumour": (stranger.root / "component.yaml").read_text("utf-8")})
    told = stranger.listed()
    assert {name: told[name] for name in SHOWN} == SHOWN
    stranger.ok("-m", "dagster_lastgood.home")
    stranger.ok("-m", "dagster", "job", "execute", "-m", "my_project.definitions", "-j", "build_tumour")
    assert json.loads(stranger.ok("-m", "lastgood", "bundle", "list", "tumour", "--json"))["bundles"]


BIOPSY = """
from my_project.tumour import data, model

__all__ = ["data", "model"]


def live():
    import great_expectations.expectations as gxe

    return [gxe.ExpectColumnValuesToBeBetween(column="mean_radius", min_value=0, max_value=40, meta={"check": "ranges"})]
"""
TUMOUR = """
type: dagster_lastgood.ServiceComponent
attributes:
  service: tumour
  owners: [team:tumour-on-call]
  parts: {data: my_project.tumour.data, model: my_project.tumour.model}
  expectations: my_project.biopsy.live
  expected: {ranges: Measurements are in millimetres.}
"""


def layouts() -> dict[str, dict[str, str]]:
    """Two services in one component, as the page has it, and in a component each, of which the one that comes last brings what they share."""
    several = blocks()[-1]
    expected = "      expectations: my_project.biopsy.live\n      expected: {ranges: Measurements are in millimetres.}\n"
    apart = TUMOUR.replace("tumour", "biopsy").replace("on-call]", "on-call]\n  shared: false")
    return {
        "one component": {"all": several.replace("    - service: biopsy\n", f"{expected}    - service: biopsy\n")},
        "a component each": {"biopsy": apart, "tumour": TUMOUR},
    }


@pytest.mark.parametrize("layout", layouts())
def test_two_services_of_components_are_built_and_judged_each_by_its_own(stranger: Stranger, layout: str) -> None:
    """`retrain` builds the service that it is asked for and no other; the expectations of both are judged on their windows."""
    services = stranger.root / "services"
    (stranger.root / "lastgood.toml").write_text('[layers]\ninfrastructure = ""\ntraffic = ""\nregistry = ""\n', "utf-8")
    (services / "biopsy").mkdir()
    (services / "biopsy" / "runtime.py").write_text((services / "tumour" / "runtime.py").read_text("utf-8"), "utf-8")
    manifest = (services / "tumour" / "service.yaml").read_text("utf-8")
    (services / "biopsy" / "service.yaml").write_text(
        manifest.replace("service: tumour", "service: biopsy").replace("8390", "8391"), "utf-8"
    )
    (stranger.root / "my_project" / "biopsy.py").write_text(BIOPSY, "utf-8")
    components(stranger, layouts()[layout])
    told = stranger.listed()
    assert {"biopsy/bundle", "tumour/bundle"} <= set(told["assets"])
    assert {"biopsy/drift:ranges", "tumour/drift:ranges"} <= set(told["checks"])
    assert told["sensors"] == SHOWN["sensors"]
    assert told["jobs"] == sorted([*SHOWN["jobs"], "build_biopsy"])
    stranger.ok("-m", "dagster_lastgood.home")
    found = json.loads(stranger.ok("-c", TWO).splitlines()[-1])
    assert found["retrained"] == {"biopsy": [True, ["biopsy"]], "tumour": [True, ["biopsy", "tumour"]]}
    assert found["judged"] == {"biopsy/drift": False, "tumour/drift": True}, found["skipped"]

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
    manifest, runtime, functions, _, component = re.findall(r"```(?:yaml|python)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
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


def test_a_component_is_a_service(stranger: Stranger) -> None:
    """The YAML block of the page, in a folder of components, shows the same."""
    (stranger.root / "my_project" / "defs" / "tumour").mkdir(parents=True)
    (stranger.root / "my_project" / "defs" / "__init__.py").write_text("", "utf-8")
    (stranger.root / "component.yaml").rename(stranger.root / "my_project" / "defs" / "tumour" / "defs.yaml")
    (stranger.root / "pyproject.toml").write_text(
        '[project]\nname = "my-project"\nversion = "1"\n[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "my_project"\n',
        "utf-8",
    )
    (stranger.root / "my_project" / "definitions.py").write_text(COMPONENT, "utf-8")
    told = stranger.listed()
    assert {name: told[name] for name in SHOWN} == SHOWN
    stranger.ok("-m", "dagster_lastgood.home")
    stranger.ok("-m", "dagster", "job", "execute", "-m", "my_project.definitions", "-j", "build_tumour")
    assert json.loads(stranger.ok("-m", "lastgood", "bundle", "list", "tumour", "--json"))["bundles"]

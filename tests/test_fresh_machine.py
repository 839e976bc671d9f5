"""README's two commands on a machine that has a bare Debian and a Python, and nothing of ours: a copy of the files, no git, another home."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import conftest, project, tools, tracked

KEPT = ("PIP_", "UV_", "SSL_", "REQUESTS_", "HTTP_", "HTTPS_", "NO_PROXY", "http_", "https_", "no_proxy", "LASTGOOD_TEST_SESSION")
"""Variables that say how this machine reaches its package index; a container would be given the same."""

pytestmark = pytest.mark.timeout(1600)


class Machine:
    """The copy, and the environment that its commands get."""

    def __init__(self, folder: Path) -> None:
        self.clone = folder / "lastgood"
        home = folder / "home"
        home.mkdir()
        shown = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))  # what was fetched once need not be fetched again
        config = Path.home() / ".config/pip/pip.conf"
        self.environment = {
            "UV_CACHE_DIR": str(cache / "uv"),
            "PIP_CACHE_DIR": str(cache / "pip"),
            **({"PIP_CONFIG_FILE": str(config)} if config.exists() else {}),
            **shown,
            "HOME": str(home),
            "PATH": tools.bare_path(folder / "bin", python=Path(getattr(sys, "_base_executable", None) or sys.executable)),
        }

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run it in the copy, as its user would."""
        return subprocess.run(
            command,
            cwd=self.clone,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
            stdin=subprocess.DEVNULL,
        )


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with the copy on it, and the packages installed by the copy's own script."""
    made = Machine(tmp_path_factory.mktemp("machine"))
    for name in tracked.files():
        target = made.clone / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tracked.ROOT / name, target)
    for service, port in project.PORTS.items():
        project.move(made.clone / "services" / service / "service.yaml", port=port)
    done = made.run("scripts/bootstrap")
    if done.returncode != 0 and not conftest.CI:
        pytest.skip(f"the packages cannot be installed here: {done.stderr.strip().splitlines()[-1]}; with a package index in reach: ./test")
    assert done.returncode == 0, done.stderr
    assert (done.stdout, made.run("scripts/bootstrap").stderr) == ("", "")
    yield made
    shutil.rmtree(made.clone)


def test_what_is_not_installed_is_skipped_with_the_command_that_brings_it(machine: Machine) -> None:
    """`./test` of everything that drives a program: Redis comes in a wheel; without strace and Prometheus nothing fails."""
    done = machine.run(
        "./test",
        "-q",
        "tests/layers/test_answer_store.py",
        "tests/sources/test_prometheus.py",
        "tests/ledger/test_crash.py",
        "tests/test_style.py",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert skipped
    assert all("is not installed; to run this test: apt-get install" in line for line in skipped), skipped


def test_the_demonstration_holds_there(machine: Machine) -> None:
    """`./demo --json`: one object on stdout, every claim of it true."""
    done = machine.run("./demo", "--json", "--down")
    shown = json.loads(done.stdout)
    assert [claim for claim in shown["claims"] if not claim["ok"]] == [], done.stderr[-3000:]
    assert shown["ok"] is True
    assert len(shown["claims"]) >= 18
    assert done.returncode == 0

"""An acknowledged change survives kill -9 at any write, and what was not acknowledged happened wholly or not at all."""

from __future__ import annotations

import collections
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lastgood.system import failpoints
from lastgood.system.failpoints import FAILPOINTS
from tests import tools
from tests.ledger import scenario

ROOT = Path(__file__).resolve().parents[2]
PLACES = tuple(name for name in FAILPOINTS if name.startswith(("ledger.", "audit.")))
HITS = len(scenario.OPERATIONS)
SYSCALLS = ("pwrite64", "fdatasync", "fsync", "unlink", "ftruncate")


def _in_a_child(url: str, keys: Path, fault: str) -> tuple[int, list[str]]:
    """Run the scenario in a forked process with *fault* armed: its wait status, and what it acknowledged."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.close(reader)
            with failpoints.armed(fault):
                for name in scenario.run(url, keys):
                    os.write(writer, f"{name}\n".encode())
            code = 0
        except Exception:  # noqa: BLE001  # an injected error is an outcome; the parent checks what it left
            code = 3
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        acknowledged = pipe.read().splitlines()
    return os.waitpid(pid, 0)[1], acknowledged


@pytest.mark.parametrize("place", PLACES)
def test_killed_or_refused_at_every_named_place(url: str, keys: Path, place: str):
    """Killed, or hit by an I/O error, at any failpoint of any of three commits: old or new state, and repeating is safe."""
    scenario.prepare(url, keys)
    for hit in range(1, HITS + 1):
        status, acknowledged = _in_a_child(url, keys, f"{place}=kill@{hit}")
        if hit == 1:
            assert os.WTERMSIG(status) == signal.SIGKILL
        scenario.check(url, acknowledged, keys)
    scenario.repeat(url, keys)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_an_input_output_error_at_every_named_place(url: str, keys: Path, error: str, tmp_path: Path):
    """An error of the operating system at any failpoint takes the transaction back or comes after its commit."""
    scenario.prepare(url, keys)
    home, template = tmp_path / "home", tmp_path / "template"
    shutil.copytree(home, template)
    for place in PLACES:
        for hit in range(1, HITS + 1):
            shutil.rmtree(home)
            shutil.copytree(template, home)
            status, acknowledged = _in_a_child(url, keys, f"{place}=raise:{error}@{hit}")
            assert os.waitstatus_to_exitcode(status) == 3
            scenario.check(url, acknowledged, keys)
        scenario.repeat(url, keys)


def _strace(url: str, *arguments: str, log: Path | None = None) -> subprocess.CompletedProcess[str]:
    out = ["-o", str(log)] if log else ["-o", os.devnull]
    command = [
        tools.find("strace"),
        "-f",
        "-qq",
        *out,
        "-e",
        f"trace={','.join(SYSCALLS)}",
        *arguments,
        sys.executable,
        "-m",
        "tests.ledger.scenario",
        url,
    ]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False)


@pytest.fixture(scope="module")
def strace() -> None:
    """Skip where no process may be traced."""
    probe = subprocess.run([tools.find("strace"), "-qq", "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"strace may not trace here: {probe.stderr.strip()}; allow ptrace to run this test")


@pytest.mark.parametrize("fault", ["signal=SIGKILL", "error=EIO", "error=ENOSPC"])
@pytest.mark.usefixtures("strace")
def test_faults_at_system_calls(tmp_path: Path, fault: str, budget: float):
    """Killed or refused at any write, sync, truncation or removal that SQLite does, sampled over all of them."""
    template, target = tmp_path / "template.db", tmp_path / "run" / "ledger.db"
    url = f"sqlite:///{target}"
    target.parent.mkdir()
    scenario.prepare(f"sqlite:///{template}")
    shutil.copy(template, target)
    log = tmp_path / "calls"
    assert _strace(url, log=log).returncode == 0
    counts = collections.Counter(re.findall(r"(\w+)\(", log.read_text()))
    points = [(call, number) for call, count in counts.items() if call in SYSCALLS for number in range(1, count + 1)]
    assert counts["pwrite64"] > 20
    assert counts["fdatasync"] >= HITS
    for call, number in random.Random(fault).sample(points, min(len(points), round(8 * budget))):
        for leftover in target.parent.iterdir():
            leftover.unlink()
        shutil.copy(template, target)
        done = _strace(url, "-e", f"inject={call}:{fault}:when={number}")
        assert done.returncode in {0, 3, -signal.SIGKILL, 128 + signal.SIGKILL}, done.stderr
        scenario.check(url, done.stdout.splitlines(), tmp_path / "keys")
        scenario.repeat(url, tmp_path / "keys")

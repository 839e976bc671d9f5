"""The rules of the suite are rules only if breaking one turns the run red."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).with_name("conftest.py")


def _pytest(folder: Path, source: str, *, ci: str, module: str = "test_it.py") -> subprocess.CompletedProcess[str]:
    shutil.copy(CONFTEST, folder)
    (folder / module).write_text(source, encoding="utf-8")
    env = {**os.environ, "CI": ci}
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=100, check=False)


SKIPS = """
import pytest
def test_inside(): pytest.skip('no tool')
@pytest.mark.skipif(True, reason='no strace')
def test_by_mark(): pass
@pytest.mark.xfail
def test_known_bug(): assert False
"""
MODULE_SKIP = "import pytest\npytest.skip('no database', allow_module_level=True)\n"


def test_a_skip_fails_in_ci_only(tmp_path: Path):
    """A skip, in a test, by a mark or of a module, passes at home and fails in CI with its reason; xfail is no skip."""
    (tmp_path / "test_module.py").write_text(MODULE_SKIP, encoding="utf-8")
    at_home = _pytest(tmp_path, SKIPS, ci="")
    in_ci = _pytest(tmp_path, SKIPS, ci="true")
    assert at_home.returncode == 0, at_home.stdout
    assert "3 skipped, 1 xfailed" in at_home.stdout
    assert in_ci.returncode != 0
    assert "skipped in CI: Skipped: no database" in in_ci.stdout
    (tmp_path / "test_module.py").unlink()
    without_module = _pytest(tmp_path, SKIPS, ci="true").stdout
    assert "1 failed, 1 xfailed, 1 error" in without_module
    assert "no tool" in without_module
    assert "no strace" in without_module


def test_a_process_left_behind_fails_the_run(tmp_path: Path):
    """A detached process that outlives the tests turns the run red, is named, and is ended."""
    source = """
import subprocess, sys
def test_it():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    open("pid", "w").write(str(child.pid))
"""
    done = _pytest(tmp_path, source, ci="")
    pid = int((tmp_path / "pid").read_text())
    assert done.returncode == 1, done.stdout
    assert f"left running by a test: {pid} " in done.stdout
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    """Whether it still executes; an ended process stays visible as a zombie until its parent has looked."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False

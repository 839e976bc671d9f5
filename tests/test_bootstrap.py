"""./demo and ./test on machines that are not ours: which installer is chosen, what is done twice, what is said when it cannot work.

The scripts run for real, in a copy of the project whose lock is empty and in front of tools that only write down how
they were called; the installation of the real lock is what CI does on its fresh checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ["demo", "test", "scripts/bootstrap", "scripts/environment.sh", "scripts/lock"]
TOOLS = ["sh", "cat", "chmod", "cp", "date", "dirname", "id", "ln", "mkdir", "mv", "readlink", "rm", "sed", "sleep"]

# Stands in for uv: makes a venv as uv does, and records its calls.
FAKE_UV = """#!/bin/sh
echo "uv $*" >>"{log}"
case "$*" in
--version) echo "uv 9.9.9" ;;
venv*) exec "{python}" -m venv --without-pip .venv ;;
"pip sync"*) exit "${{UV_SYNC_EXIT:-0}}" ;;
esac
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with the real scripts and an empty lock."""
    folder = tmp_path / "a clone"
    (folder / "scripts").mkdir(parents=True)
    for name in SCRIPTS:
        shutil.copy(ROOT / name, folder / name)
    (folder / "requirements.lock").write_text("")
    (folder / "pyproject.toml").write_text("")
    return folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A PATH with the basic tools of a POSIX system and nothing else: no Python, no uv."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool) or pytest.fail(f"{tool} is missing here"))
    return folder


@pytest.fixture
def run(clone: Path, path: Path) -> Run:
    """Run a script of the clone with that PATH."""

    def run(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
        keep = {name: os.environ[name] for name in ("HOME", "LASTGOOD_TEST_SESSION") if name in os.environ}
        environ = {**keep, "PATH": str(path), **env}
        return subprocess.run(["sh", *command], cwd=clone, env=environ, capture_output=True, text=True, timeout=100, check=False)

    return run


def _tool(path: Path, name: str, script: str) -> None:
    (path / name).write_text(script, encoding="utf-8")
    (path / name).chmod(0o755)


def _with_uv(path: Path) -> Path:
    log = path.parent / "calls"
    _tool(path, "uv", FAKE_UV.format(log=log, python=sys.executable))
    (path / "python3").symlink_to(sys.executable)
    return log


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("shell", ["sh", "dash", "bash --posix"])
def test_every_shell_can_read_them(script: str, shell: str):
    """The scripts parse in the shells that play /bin/sh; one that is not here is not asked."""
    if shutil.which(shell.split(maxsplit=1)[0]):
        subprocess.run([*shell.split(), "-n", str(ROOT / script)], check=True, timeout=20)


def test_the_second_run_does_nothing(run: Run, path: Path):
    """Once installed, the installer is not even asked for its version."""
    log = _with_uv(path)
    first = run("scripts/bootstrap")
    assert first.returncode == 0, first.stderr
    assert (first.stdout, "environment ready" in first.stderr) == ("", True)
    assert "--require-hashes requirements.lock" in log.read_text()
    log.unlink()
    second = run("scripts/bootstrap")
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert not log.exists()


@pytest.mark.parametrize("changed", ["requirements.lock", "pyproject.toml"])
def test_a_change_is_installed_into_the_same_environment(run: Run, path: Path, clone: Path, changed: str):
    """After an edit of the lock or of pyproject the environment is brought up to date, not made anew."""
    log = _with_uv(path)
    run("scripts/bootstrap")
    log.unlink()
    (clone / changed).write_text("# new\n")
    assert run("scripts/bootstrap").returncode == 0
    assert "pip sync" in log.read_text()
    assert "venv --quiet" not in log.read_text()


def test_an_interrupted_installation_is_done_again(run: Run, path: Path):
    """A failure leaves no trace that would pass for success."""
    log = _with_uv(path)
    assert run("scripts/bootstrap", UV_SYNC_EXIT="1").returncode == 1
    log.unlink()
    assert run("scripts/bootstrap").returncode == 0
    assert "pip sync" in log.read_text()


def test_a_moved_clone_gets_a_new_environment(run: Run, path: Path, clone: Path):
    """Scripts in .venv/bin name the folder they were made in, so a copied .venv is not trusted."""
    log = _with_uv(path)
    run("scripts/bootstrap")
    log.unlink()
    moved = clone.rename(clone.parent / "moved")
    clone.mkdir()  # the working directory of the run
    done = run(str(moved / "scripts/bootstrap"))
    assert done.returncode == 0, done.stderr
    assert "replacing .venv" in done.stderr
    assert "venv --quiet" in log.read_text()


def test_a_shim_that_fails_is_passed_over(run: Run, path: Path, clone: Path):
    """A `python3.12` that exists but does not run, as pyenv's for an inactive version, is not chosen."""
    _with_uv(path)
    _tool(path, "python3.12", "#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n")
    _tool(path, "python3.11", "#!/bin/sh\nexit 0\n")
    done = run("scripts/bootstrap")
    assert done.returncode == 0, done.stderr
    assert (clone / ".venv/.stamp").exists()


def test_without_python_it_says_what_to_install(run: Run):
    """No Python, no uv: one sentence with the command that mends it, and nothing on stdout."""
    done = run("./demo", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "apt-get install python3 python3-venv" in done.stderr


def test_a_python_that_is_too_old_is_no_python(run: Run, path: Path):
    """A Python below 3.11 answers the version question with nothing."""
    _tool(path, "python3", "#!/bin/sh\nexit 0\n")
    assert "no Python 3.11 or newer" in run("scripts/bootstrap").stderr


def test_without_venv_and_pip_it_names_the_package(run: Run, path: Path):
    """Plain Debian: Python that can make no venv and has no pip gets the name of the package to install."""
    script = f'#!/bin/sh\nfor word; do case $word in venv|pip) exit 1 ;; esac; done\nexec "{sys.executable}" "$@"\n'
    _tool(path, "debian-python", script)
    _tool(path, "python3", f'#!/bin/sh\n"{sys.executable}" -c 0 && echo "{path}/debian-python"\n')
    done = run("scripts/bootstrap")
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr


def test_two_at_once_install_once(run: Run, path: Path, clone: Path):
    """The second waits for the first; a lock whose owner was killed is no obstacle."""
    log = _with_uv(path)
    ended = subprocess.Popen(["sh", "-c", "exit 0"])
    ended.wait()
    (clone / ".bootstrap.lock").symlink_to(f"pid:{ended.pid}")
    command = ["sh", "scripts/bootstrap"]
    both = [subprocess.Popen(command, cwd=clone, env={"PATH": str(path)}, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=100)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert log.read_text().count("pip sync") == 1
    assert not (clone / ".bootstrap.lock").is_symlink()


def test_test_runs_every_step_and_reports_each(run: Run, path: Path, clone: Path):
    """A failing step does not hide the next ones, and the exit code tells."""
    _with_uv(path)
    run("scripts/bootstrap")
    for tool, code in {"ruff": 1, "mypy": 0, "lint-imports": 0}.items():
        _tool(clone / ".venv/bin", tool, f"#!/bin/sh\nexit {code}\n")
    done = run("./test")  # and pytest is not installed there
    assert done.returncode == 1
    table = [line.rsplit(None, 3) for line in done.stdout.strip().splitlines()[-5:]]
    verdicts = {name: verdict for name, verdict, *_seconds in table}
    assert verdicts == {"format": "FAILED", "lint": "FAILED", "types": "ok", "import contracts": "ok", "tests": "FAILED"}


def test_the_lock_names_no_address():
    """Every package of the lock is pinned with hashes, and nothing says where to fetch it."""
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    assert "://" not in lock
    packages = [block for block in lock.split("\n") if "==" in block]
    assert len(packages) > 100
    assert all(line.endswith("\\") for line in packages)
    assert not [line for line in lock.splitlines() if line.startswith("-")]

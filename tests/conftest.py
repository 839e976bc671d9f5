"""Rules for the whole suite: a clean environment, no skipping in CI, no process left behind.

What does not belong here: fixtures of one folder (they live in that folder's conftest.py).
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

# Set before any test imports a numeric library, which reads its thread count once; ./test sets the same.
os.environ.update(
    OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"),
    DO_NOT_TRACK="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    DVC_NO_ANALYTICS="1",
    GX_ANALYTICS_ENABLED="false",
    DAGSTER_DISABLE_TELEMETRY="1",
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false",
)
# A stack that happens to run on this machine must not be seen by a test, nor a test write to it.
for name in ("LASTGOOD_HOME", "LASTGOOD_LEDGER_URL", "LASTGOOD_PROJECT", "LASTGOOD_FAILPOINTS", "DAGSTER_HOME", "MLFLOW_TRACKING_URI"):
    os.environ.pop(name, None)

from tests import tools  # noqa: E402

# Tests run as on a bare machine; what one needs besides it asks `tools` for. A run inside a test has that PATH already.
if "LASTGOOD_TEST_WHOLE_PATH" not in os.environ:
    _programs = tempfile.TemporaryDirectory(prefix="lg-path-")
    os.environ.update(LASTGOOD_TEST_WHOLE_PATH=tools.WHOLE_PATH, PATH=tools.session_path(Path(_programs.name)))

import hypothesis  # noqa: E402  # hypothesis imports numpy if it is there, and numpy reads the environment once
import pytest  # noqa: E402

CI = os.environ.get("CI") == "true"
BUDGET = float(os.environ.get("LASTGOOD_TEST_BUDGET", "1"))
"""How much work randomized and repeated tests do; 1 keeps the whole suite to minutes."""

ALLOWED_SKIPS: tuple[str, ...] = ()
"""Reasons for which a test may be skipped in CI. None: what CI does not run, nobody runs."""

# Everything a test starts inherits this, however far it detaches itself.
MARK = f"LASTGOOD_TEST_SESSION={uuid.uuid4()}"
os.environ.update([MARK.split("=")])

EXIT_GRACE_S = 5.0

examples = max(1, round(100 * BUDGET))
hypothesis.settings.register_profile("dev", max_examples=examples, deadline=None)
# The same examples on each run: a red CI can be repeated, and a green one was not luck.
hypothesis.settings.register_profile("ci", max_examples=examples, deadline=None, derandomize=True, database=None, print_blob=True)
hypothesis.settings.load_profile("ci" if CI else "dev")


@pytest.fixture(scope="session")
def budget() -> float:
    """Multiplier for repetitions, from LASTGOOD_TEST_BUDGET (default 1)."""
    return BUDGET


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """In CI a skipped test is a failed one."""
    report = yield
    return _no_skip(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """The same for a whole module that skips itself."""
    report = yield
    return _no_skip(report)


def _no_skip(report: pytest.TestReport | pytest.CollectReport) -> pytest.TestReport | pytest.CollectReport:
    expected_failure = hasattr(report, "wasxfail")
    if CI and report.skipped and not expected_failure:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if reason.removeprefix("Skipped: ") not in ALLOWED_SKIPS:
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {reason}; make CI able to run it (see .ci/run)"
    return report


FIRST = (
    "test_demo.py",
    "test_fresh_machine.py",
    "integration",
    "ops",
    "pipelines",
    "sensors",
    "services",
    "drift",
    "layers",
    "ledger",
    "reports",
)
"""What takes longest begins first, so that at the end of a run side by side no process is left with it alone."""

SERVERS = (
    *FIRST, "assets", "bench", "cli", "controller", "hosts", "index", "model_retirement", "paging", "serving", "simulation", "sources",
    "analysis/test_run.py", "release/test_trial.py", "release/test_verbs_postgres.py", "system/test_processes.py",
    "test_bootstrap.py", "test_conftest.py", "test_docs_shell.py", "test_frozen_bundles.py", "test_kept.py", "test_wheel.py",
)  # fmt: skip
"""What starts programs, or takes long for another reason: `./test fast` leaves it out."""

if "LASTGOOD_TEST_FAST" in os.environ:
    collect_ignore = list(SERVERS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files; tests of one file stay together and in order."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    top = item.path.relative_to(Path(__file__).parent).parts[0]
    return FIRST.index(top) if top in FIRST else len(FIRST)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if a process that a test started is still alive, name it, and end it."""
    left = survivors()
    deadline = time.monotonic() + EXIT_GRACE_S
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = survivors()
    if not left:
        return
    say: Callable[..., None] = session.config.get_terminal_writer().line
    say("")
    for pid, command in left.items():
        say(f"left running by a test: {pid} {command}", red=True)
        os.kill(pid, signal.SIGKILL)
    session.exitstatus = pytest.ExitCode.TESTS_FAILED


def survivors() -> dict[int, str]:
    """Pid and command of every process of this session but our own; empty where there is no /proc."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = MARK.encode() in (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        # Python's own helper of multiprocessing ends with us; a command line is empty once a process has ended.
        if ours and command and "multiprocessing.resource_tracker" not in command and int(folder.name) != os.getpid():
            found[int(folder.name)] = command
    return found

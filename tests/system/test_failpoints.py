"""Failpoints fire when armed, where armed, and cost nothing otherwise."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lastgood import errors
from lastgood.system import failpoints

ROOT = Path(__file__).resolve().parents[2]


def _run(code: str, rules: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "LASTGOOD_FAILPOINTS": rules}
    return subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


REACH_THREE_TIMES = """
from lastgood.system.failpoints import failpoint
for turn in 1, 2, 3:
    failpoint("store.before_rename")
    print(turn, flush=True)
"""


def test_unarmed_does_nothing():
    """Without rules every legal name is a no-op."""
    with failpoints.armed(""):
        for name in failpoints.FAILPOINTS:
            failpoints.failpoint(name)


def test_kill_at_the_second_hit():
    """The rule kill@2 lets the first pass through and ends the process by SIGKILL at the second."""
    done = _run(REACH_THREE_TIMES, "store.before_rename=kill@2")
    assert (done.returncode, done.stdout.split()) == (-signal.SIGKILL, ["1"])


def test_raise_is_an_oserror_with_the_number():
    """The rules raise:28 and raise:ENOSPC both give OSError 28, at every hit."""
    for text in ("28", "ENOSPC"):
        with failpoints.armed(f"store.after_rename=raise:{text}"):
            for _ in range(2):
                with pytest.raises(OSError, match=r"failpoint store\.after_rename") as caught:
                    failpoints.failpoint("store.after_rename")
                assert caught.value.errno == 28


def test_raise_once_or_from_then_on():
    """@2 fires at the second hit only, @2+ at every hit from the second on."""
    for suffix, expected in (("@2", [False, True, False]), ("@2+", [False, True, True])):
        fired = []
        with failpoints.armed(f"ledger.before_commit=raise:EIO{suffix}"):
            for _ in range(3):
                try:
                    failpoints.failpoint("ledger.before_commit")
                    fired.append(False)
                except OSError:
                    fired.append(True)
        assert fired == expected


def test_delay_goes_on():
    """A delay waits and then returns."""
    with failpoints.armed("ledger.after_begin=delay:0.001"):
        failpoints.failpoint("ledger.after_begin")


def test_arming_ends_with_the_block():
    """After the block the place is harmless again, also when the block raised."""
    with pytest.raises(OSError, match="failpoint"), failpoints.armed("ledger.after_begin=raise:5"):
        failpoints.failpoint("ledger.after_begin")
    failpoints.failpoint("ledger.after_begin")


@pytest.mark.parametrize(
    "rules",
    [
        "nothing.like_this=kill",
        "ledger.after_begin",
        "ledger.after_begin=explode",
        "ledger.after_begin=raise",
        "ledger.after_begin=raise:ENOTHING",
        "ledger.after_begin=raise:99999",
        "ledger.after_begin=kill:9",
        "ledger.after_begin=delay:soon",
        "ledger.after_begin=kill@0",
        "ledger.after_begin=kill,ledger.after_begin=kill",
    ],
)
def test_a_misspelt_rule_is_refused(rules):
    """A rule that cannot be meant is a UsageError, from the environment as well."""
    with pytest.raises(errors.UsageError), failpoints.armed(rules):
        pass
    assert "UsageError" in _run("from lastgood.system import failpoints; failpoints.failpoint('ledger.after_begin')", rules).stderr


def test_an_unregistered_name_in_code_is_refused():
    """A typo in code fails at once, armed or not."""
    with pytest.raises(errors.UsageError, match="unknown failpoint"):
        failpoints.failpoint("store.before_renmae")


def test_names_in_the_code_are_registered():
    """Every literal passed to failpoint() anywhere in lastgood/ stands in FAILPOINTS."""
    used = set()
    for file in (ROOT / "lastgood").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                used |= {node.args[0].value} if name == "failpoint" else set()
    assert used <= set(failpoints.FAILPOINTS), f"unregistered: {used - set(failpoints.FAILPOINTS)}"
